"""Every bound of promise P9 that is not a setting, in one place. No code here, only numbers with their reasons."""

from typing import Final

# A request with a PEM certificate or CSR is about 1.5 KiB; ThingsBoard takes 64 KiB, security.md SD-12 asks for 16.
MAX_REQUEST_BYTES: Final = 16 * 1024
MAX_REQUEST_DEPTH: Final = 8
MAX_REQUEST_FIELDS: Final = 32

MAX_NAME_CHARS: Final = 255  # ThingsBoard's own limit (thingsboard.md section 4)
MAX_SECRET_CHARS: Final = 255
MAX_PEM_CHARS: Final = 8 * 1024  # security.md SD-16
MAX_AUTHORITIES: Final = 16  # certificates in the list of a profile
MIN_SECRET_CHARS: Final = 8

MAX_REGISTRATIONS: Final = 10**15  # exact in JSON and in every database; more than there will ever be devices
MAX_TOKENS_AT_ONCE: Final = 100_000  # what one file and one command can still be handled with

MAX_LABELS: Final = 32
MAX_LABEL_KEY_CHARS: Final = 63
MAX_LABEL_VALUE_CHARS: Final = 255
MAX_REMARK_CHARS: Final = 255
MAX_TOPIC_PATTERNS: Final = 16
MAX_PATTERN_CHARS: Final = 255

REQUEST_ENTROPY_BYTES: Final = 48  # reference 10, device id 10, certificate serial 16, name 10

MAX_LIVE_GENERATIONS: Final = (
    4  # an unused credential is kept for the device that may have been told it, but not for ever
)
MAX_SESSIONS_PER_DEVICE: Final = (
    8  # the vendor's gateway now and then connects twice at once (thingsboard.md section 11.3)
)
