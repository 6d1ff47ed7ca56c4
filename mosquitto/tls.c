/* Client certificates on the TLS listeners that demand none: there Mosquitto never asks for one, and elsewhere
 * OpenSSL wants to know the issuer, which for a certificate that a device made itself is the device. With this
 * it asks, and lets in any certificate, known or not, that has no other fault. Why that is safe:
 *
 * - TLS still proves that the client has the private key; OpenSSL still refuses what has expired, is not yet
 *   valid, is for another purpose, has a weak key or a signature that is wrong. Only that its issuer is unknown
 *   is borne. For all else than this a certificate counts as none: nothing here goes by a name in it.
 * - Who it is and whether it may log in is decided at CONNECT by the SHA-256 of the whole certificate
 *   (credentials.c). One that no live credential has registered opens nothing, as a wrong token does.
 * - Listeners with `require_certificate true` mean what they say, with their cafile: they are left alone. So are
 *   those with pre-shared keys, those of libwebsockets, and bridges, which are clients.
 * - With `use_identity_as_username` Mosquitto believes a certificate without asking the gate. On a listener that
 *   demands none nobody could come in like that; now anybody can, but the gate gives a session that it did not
 *   let in no topic at all.
 *
 * OpenSSL calls on_context() for each context that is made after the plugin has begun, which is before
 * Mosquitto's listeners do. What is set in it there is looked at in each handshake, when the connection is
 * complete and before anything was sent. A connection's own beginning is no place for it: since OpenSSL 3.2
 * nothing is in it yet then. A reload keeps it. */
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

#include "gate.h"

#define MAX_DEPTH 16 /* of a chain; as long as one that a profile may have */

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
