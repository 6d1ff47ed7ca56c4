-- A certificate with which a device was imported is known by the hash of its key (device.factory_key); nobody reads more.
DROP TABLE factory_certificate;
