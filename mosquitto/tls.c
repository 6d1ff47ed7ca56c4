/* Client certificates on the TLS listeners that demand none. By itself Mosquitto never asks for one there, and
 * elsewhere OpenSSL wants to know the issuer; but the issuer of a certificate that a device made is the device.
 * With this it asks there, and bears that the issuer is unknown. Why that is safe:
 *
 * - TLS still proves that the client has the private key, and OpenSSL still refuses a certificate that has
 *   expired, is not yet valid, is for another purpose, is weak or is signed wrongly.
 * - Who it is and whether it may log in is decided at CONNECT by the SHA-256 of the whole certificate
 *   (credentials.c); no name in it means anything. One that no live credential has registered opens nothing, as
 *   a wrong token does; one that counts by its issuer alone is checked there against the authorities that its
 *   profile has at that moment. A TLS session that is resumed goes on with the certificate that it began with.
 * - Listeners with `require_certificate true` keep their meaning, with their cafile: they are left alone. So are
 *   those with pre-shared keys, those of libwebsockets, and bridges, which are clients.
 * - With `use_identity_as_username` Mosquitto believes a certificate and asks no plugin. On a listener that
 *   demands none nobody could come in like that; now anybody can. But the gate gives no topic to a session that
 *   it did not let in.
 *
 * OpenSSL calls on_context() for each context that is made after the plugin has begun, and Mosquitto makes those
 * of its listeners later. What is set there is called in each handshake, before anything is sent and whatever a
 * reload has done. The beginning of a connection (SSL_get_ex_new_index) is no place for it: since OpenSSL 3.2
 * nothing is in a connection yet when that is told, and what is set is overwritten. */
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

#include "gate.h"

#define MAX_DEPTH 16 /* of a chain: each link costs time, before anybody is known; a profile may have that many */

static int contexts = -1;

static int bear_unknown_issuer(int faultless, X509_STORE_CTX *check)
{
	switch(X509_STORE_CTX_get_error(check)){
		case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
		case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
		case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
		case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
		case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
			return 1;
	}
	return faultless;
}

static int on_client_hello(SSL *connection, int *alert, void *unused)
{
	(void)alert, (void)unused;
	/* Mosquitto gives its callback to all listeners that have a certificate, and the others have none. */
	if(SSL_get_verify_mode(connection) == SSL_VERIFY_NONE && SSL_get_verify_callback(connection)){
		SSL_set_verify(connection, SSL_VERIFY_PEER, bear_unknown_issuer);
		SSL_set_verify_depth(connection, MAX_DEPTH);
	}
	return SSL_CLIENT_HELLO_SUCCESS;
}

static void on_context(void *context, void *unused, CRYPTO_EX_DATA *data, int index, long number, void *pointer)
{
	(void)unused, (void)data, (void)index, (void)number, (void)pointer;
	SSL_CTX_set_client_hello_cb(context, on_client_hello, NULL); /* clients never call it */
}

bool tls_open(void)
{
	contexts = SSL_CTX_get_ex_new_index(0, NULL, on_context, NULL, NULL);
	return contexts >= 0;
}

void tls_close(void)
{
	if(contexts >= 0) CRYPTO_free_ex_index(CRYPTO_EX_INDEX_SSL_CTX, contexts);
	contexts = -1;
}
