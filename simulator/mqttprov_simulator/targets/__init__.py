"""What a run is aimed at: a broker that it starts itself (embedded, mosquitto), or one that is there (URL)."""
