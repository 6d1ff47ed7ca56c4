"""How many certificates are issued in a second: `python bench/ca.py [CERTIFICATES]`.

Figures are of CPU time. One is what a provisioning request with a CSR costs the responder beside everything else: the
CSR's signature is checked twice (once to know its key before the rules decide, once by the authority), then the
certificate is made and signed.
"""

import os
import statistics
import sys
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from mqttprov.pki.authority import Authority
from mqttprov.pki.crl import Ended, Ending, entries_by_issuer, list_pem, make_list
from mqttprov.pki.inspect import inspect_csr

RUNS = 5


def signing_request() -> str:
    """Make one as a device does."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gw")])
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def main() -> None:
    """Measure."""
    count = min(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, 20_000)
    now_ms = time.time_ns() // 1_000_000
    authority, csr = Authority.create("bench", now_ms), signing_request()
    checked, signed, made = [], [], []
    for _ in range(RUNS):
        begin_s = time.process_time()
        for _ in range(count):
            inspect_csr(csr)
        checked.append((time.process_time() - begin_s) / count)
        begin_s = time.process_time()
        made = [authority.sign_device(csr, f"{n:032x}", "gw", os.urandom(16), now_ms).pem for n in range(count)]
        signed.append((time.process_time() - begin_s) / count)
    check_us, sign_us = statistics.median(checked) * 1e6, statistics.median(signed) * 1e6
    print(f"CSR check                 {check_us:7.1f} us")
    print(f"sign_device, with check   {sign_us:7.1f} us   {1e6 / sign_us:,.0f} certificates/s")
    print(f"both                      {check_us + sign_us:7.1f} us   {1e6 / (check_us + sign_us):,.0f} certificates/s")
    begin_s = time.process_time()
    entries = entries_by_issuer((Ended(pem, Ending.SUPERSEDED) for pem in made), now_ms)[authority.key_id]
    text = list_pem(make_list(authority, entries, [], now_ms))
    took_s = time.process_time() - begin_s
    print(f"list of {count:,} ended ones  {took_s * 1000:7.1f} ms   {len(text) / 1024:,.0f} KiB")


if __name__ == "__main__":
    main()
