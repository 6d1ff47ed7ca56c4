"""The doctor: shows by doing, from outside, that a broker keeps what we promise. It ends what it makes."""
