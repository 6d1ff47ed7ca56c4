/* What a CONNECT presents, against the database. The same rules as mqttprov/core/login.py. Login
 * keys are keyed hashes, which nobody can choose without the key; passwords are compared in constant time. It
 * fails closed: whatever is wrong with the database, nobody comes in until it is right again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sqlite3.h>

#include "gate.h"

#define KEY_BYTES 32
#define MAC_CHARS 64
#define MAX_SECRET_CHARS 128

/* The same states as in mqttprov/core/lifecycle.py. */
#define MAY_LOG_IN "d.state IN ('provisioned', 'active')"
#define PATTERNS(column) \
	"iif(p." column " = '[]', NULL," \
	" (SELECT group_concat(replace(value, '%d', d.name), char(10)) FROM json_each(p." column ")))"

/* A keyed hash (hex) of what it is for and up to two parts, joined by NUL: none of them can hold one. */
#define MAC(use, parts) "lower(hex(mac('" use "' || char(0) || " parts ")))"

_Static_assert(ROLE_DEVICE == 1 && ROLE_OPERATOR == 2 && ROLE_OBSERVER == 3, "the query says so");

enum query { CHECK, LOGIN, MAY_STAY, QUERIES };
/* Each row of a login is one that it may be: how it is proved, whether it may log in, and who it is; `issuers` are
 * the authorities of a profile, if a certificate counts only by them and was not registered by itself. ?1 is the
 * user name, ?2 the password, ?3 the client id, ?4 the SHA-256 of the certificate, ?5 the time. A hash of what is
 * NULL is empty, which is nobody's. The operator comes first: a device may have chosen a token or user name that is
 * an operator's name. Then what is bound to the client id, as in ThingsBoard, what the password proves, which a token
 * that another device chose does not, and the newest. Numbers of roles are those of gate.h. With a LIMIT SQLite would
 * sort in a table of its own, which takes longer than the rest. */
static const char *const queries[QUERIES] = {
	[CHECK] = /* a row only if something is wrong; 9 is the oldest schema that has what the others ask for */
	"SELECT iif(application_id = 0x6D717076, 'its schema is too old; run any mqttprov command on it',"
	" 'it is no database of mqttprov') FROM pragma_application_id, pragma_user_version"
	" WHERE application_id <> 0x6D717076 OR user_version < 9",
	[LOGIN] =
	"SELECT verifier, shown, live, role, name, id, generation, first, rotation_due, seen, publish, subscribe, issuers"
	" FROM ("
	" SELECT c.verifier, " MAC("login-password", "c.login_key || char(0) || ?2") " AS shown,"
	"  " MAY_LOG_IN " AS live, 1 AS role, d.name, d.id, c.generation, c.first_login_ms IS NULL AS first,"
	"  c.generation <= d.rotate_from AS rotation_due,"
	"  iif(c.first_login_ms IS NULL, ?5, d.last_seen_ms / 1000) AS seen,"
	"  " PATTERNS("publish_topics") " AS publish, " PATTERNS("subscribe_topics") " AS subscribe,"
	"  iif(c.type = 'X509_CERTIFICATE' AND c.certificate IS NULL, coalesce(p.authorities, ''), NULL) AS issuers,"
	"  (c.client_id IS NULL) + (c.verifier IS NULL) AS rank"
	" FROM credential c JOIN device d ON d.id = c.device_id JOIN profile p ON p.id = d.profile_id"
	" WHERE c.ended = 0 AND c.login_key IN (" MAC("login-token", "?1") ","
	"  iif(?4 IS NULL, '', " MAC("login-certificate", "lower(hex(?4))") "),"
	"  iif(?2 IS NULL, '', " MAC("login-basic", "?1") "),"
	"  iif(?2 IS NULL, '', " MAC("login-basic-id", "?1 || char(0) || ?3") "))"
	" UNION ALL"
	" SELECT verifier, " MAC("operator-password", "?1 || char(0) || ?2") ", TRUE,"
	"  iif(role = 'operator', 2, 3), name, '', 0, FALSE, FALSE, ?5, NULL, NULL, NULL, -1"
	" FROM operator WHERE name = ?1 AND ?2 IS NOT NULL)"
	" ORDER BY rank, generation DESC",
	[MAY_STAY] =
	"SELECT 1 FROM device d JOIN credential c ON c.device_id = d.id AND c.generation = ?2"
	" WHERE d.id = ?1 AND c.ended = 0 AND " MAY_LOG_IN,
};

static struct {
	char *path;
	unsigned char pepper[KEY_BYTES];
	char responder[MAX_SECRET_CHARS];
	sqlite3 *connection;
	sqlite3_stmt *statements[QUERIES];
	struct stat file;
	bool complained;
} db;

/* Read a secret of one line; others must not be able to. */
static bool read_secret(const char *path, char *text, int size)
{
	struct stat status;
	FILE *file = fopen(path, "re");
	bool read = file && !fstat(fileno(file), &status) && !(status.st_mode & (S_IRWXG | S_IRWXO)) &&
		fgets(text, size, file);
	if(file) fclose(file);
	if(read) text[strcspn(text, "\r\n")] = '\0';
	if(read && *text) return true;
	mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: cannot read the secret in %s: it must be one line in a file"
		" that its owner alone may read; run: chmod 600 %s", path, path);
	return false;
}

bool credentials_open(const char *database, const char *pepper_file, const char *responder_file)
{
	char text[2 * KEY_BYTES + 2];
	size_t length = 0;
	db.path = strdup(database);
	if(!db.path || !read_secret(pepper_file, text, sizeof(text))) return false;
	bool is_key = OPENSSL_hexstr2buf_ex(db.pepper, KEY_BYTES, &length, text, '\0') && length == KEY_BYTES;
	OPENSSL_cleanse(text, sizeof(text));
	if(!is_key) mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: %s holds no key in hex digits", pepper_file);
	return is_key && read_secret(responder_file, db.responder, sizeof(db.responder));
}

static void disconnect(void)
{
	for(int i = 0; i < QUERIES; i++) sqlite3_finalize(db.statements[i]);
	memset(db.statements, 0, sizeof(db.statements));
	sqlite3_close(db.connection);
	db.connection = NULL;
}

void credentials_close(void)
{
	disconnect();
	free(db.path);
	OPENSSL_cleanse(&db, sizeof(db));
}

static bool unavailable(const char *why)
{
	if(!db.complained) mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: nobody is let in: %s: %s", db.path, why);
	db.complained = true; /* once until it is right again: a fleet that knocks must not fill the log */
	disconnect();
	return false;
}

/* For SQL: the keyed hash of a text. */
static void mac(sqlite3_context *answer, int count, sqlite3_value **values)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int length = 0;
	const unsigned char *text = sqlite3_value_text(values[0]);
	size_t size = (size_t)sqlite3_value_bytes(values[0]);
	(void)count;
	if(text && HMAC(EVP_sha256(), db.pepper, KEY_BYTES, text, size, digest, &length)){
		sqlite3_result_blob(answer, digest, (int)length, SQLITE_TRANSIENT);
	}
}

/* Make sure that the database is open, and that it is still the one at this path. It has no busy timeout: the
 * broker serves nobody while it waits. */
static bool connected(void)
{
	struct stat file;
	if(stat(db.path, &file)) return unavailable("there is no database");
	if(db.connection && file.st_dev == db.file.st_dev && file.st_ino == db.file.st_ino) return true;
	disconnect();
	db.file = file;
	int error = sqlite3_open_v2(db.path, &db.connection, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
	int kind = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY;
	if(!error) error = sqlite3_create_function(db.connection, "mac", 1, kind, NULL, mac, NULL, NULL);
	for(int i = 0; i < QUERIES && !error; i++){
		error = sqlite3_prepare_v3(db.connection, queries[i], -1, SQLITE_PREPARE_PERSISTENT,
			&db.statements[i], NULL);
		if(i == CHECK && !error && sqlite3_step(db.statements[i]) == SQLITE_ROW){
			return unavailable((const char *)sqlite3_column_text(db.statements[i], 0));
		}
	}
	/* What went wrong in a step is told by its reset. */
	if(error || sqlite3_reset(db.statements[CHECK])) return unavailable(sqlite3_errmsg(db.connection));
	if(db.complained) mosquitto_log_printf(MOSQ_LOG_NOTICE, "mqttprov: %s can be used again", db.path);
	db.complained = false;
	return true;
}

/* Let a statement hold no lock and no secret while it waits for its next use. */
static void done_with(sqlite3_stmt *statement)
{
	sqlite3_reset(statement);
	sqlite3_clear_bindings(statement);
}

static char *copy(sqlite3_stmt *row, int column)
{
	const char *text = (const char *)sqlite3_column_text(row, column);
	return text ? strdup(text) : NULL;
}

static bool has_issued(X509 *issuer, X509 *certificate)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *check = X509_STORE_CTX_new();
	bool issued = check && store && X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN) &&
		X509_STORE_add_cert(store, issuer) && X509_STORE_CTX_init(check, store, certificate, NULL) &&
		X509_STORE_CTX_set_purpose(check, X509_PURPOSE_SSL_CLIENT) && X509_verify_cert(check) == 1;
	X509_STORE_CTX_free(check);
	X509_STORE_free(store);
	return issued;
}

/* Whether one of these authorities (PEM) has issued the client's certificate. TLS has not looked (tls.c). Each is
 * asked by itself: of several with one subject OpenSSL tries the first. */
static bool is_issued(const struct mosquitto *client, const char *issuers)
{
	X509 *certificate = mosquitto_client_certificate(client), *issuer;
	BIO *text = BIO_new_mem_buf(issuers, -1);
	bool issued = false;
	while(certificate && text && !issued && (issuer = PEM_read_bio_X509(text, NULL, NULL, NULL))){
		issued = has_issued(issuer, certificate);
		X509_free(issuer);
	}
	ERR_clear_error(); /* or Mosquitto would take it for an error of the connection */
	BIO_free(text);
	X509_free(certificate);
	return issued;
}

/* Take a row of the login query. */
static enum verdict take(const struct mosquitto *client, sqlite3_stmt *row, struct principal *who)
{
	const char *issuers = (const char *)sqlite3_column_text(row, 12);
	if(!sqlite3_column_int(row, 2)) return REFUSED_STATE;
	if(issuers && !is_issued(client, issuers)) return REFUSED_UNKNOWN;
	who->role = (enum role)sqlite3_column_int(row, 3);
	who->name = copy(row, 4);
	int id_size = snprintf(who->device_id, sizeof(who->device_id), "%s", sqlite3_column_text(row, 5));
	who->generation = sqlite3_column_int64(row, 6);
	who->first = sqlite3_column_int(row, 7);
	who->rotation_due = sqlite3_column_int(row, 8);
	who->seen = (time_t)sqlite3_column_int64(row, 9);
	who->patterns[PUBLISH] = copy(row, 10);
	who->patterns[SUBSCRIBE] = copy(row, 11);
	if(!who->name || (who->role == ROLE_DEVICE && id_size != ID_CHARS)) return UNAVAILABLE;
	return who->role == ROLE_DEVICE && !is_name(who->name) ? REFUSED_STATE : LET_IN;
}

/* Whether a row of the login query asks for no password, or for the one that was shown. */
static bool is_proved(sqlite3_stmt *row)
{
	if(sqlite3_column_type(row, 0) == SQLITE_NULL) return true;
	const void *verifier = sqlite3_column_text(row, 0), *shown = sqlite3_column_text(row, 1);
	bool whole = sqlite3_column_bytes(row, 0) == MAC_CHARS && sqlite3_column_bytes(row, 1) == MAC_CHARS;
	return verifier && shown && whole && !CRYPTO_memcmp(verifier, shown, MAC_CHARS);
}

/* Without user name the certificate counts. */
static enum verdict look_up(struct mosquitto *client, const char *username, const char *password,
	struct principal *who)
{
	unsigned char fingerprint[EVP_MAX_MD_SIZE];
	unsigned int length = 0;
	X509 *certificate = username ? NULL : mosquitto_client_certificate(client);
	sqlite3_stmt *row = db.statements[LOGIN];
	enum verdict verdict = REFUSED_UNKNOWN;
	int step;
	sqlite3_bind_text(row, 1, username, -1, SQLITE_STATIC);
	sqlite3_bind_text(row, 2, password, -1, SQLITE_STATIC);
	sqlite3_bind_text(row, 3, mosquitto_client_id(client), -1, SQLITE_STATIC);
	if(certificate && X509_digest(certificate, EVP_sha256(), fingerprint, &length)){
		sqlite3_bind_blob(row, 4, fingerprint, (int)length, SQLITE_STATIC);
	}
	X509_free(certificate);
	sqlite3_bind_int64(row, 5, time(NULL));
	while((step = sqlite3_step(row)) == SQLITE_ROW){
		verdict = is_proved(row) ? take(client, row, who) : REFUSED_PASSWORD;
		if(verdict != REFUSED_PASSWORD) break;
	}
	done_with(row);
	return step == SQLITE_ROW || step == SQLITE_DONE ? verdict : UNAVAILABLE;
}

enum verdict credentials_check(struct mosquitto *client, const char *username, const char *password,
	struct principal *who)
{
	if(username && password && !strcmp(username, "_responder") && strlen(password) == strlen(db.responder) &&
			!CRYPTO_memcmp(password, db.responder, strlen(password))){
		who->role = ROLE_RESPONDER; /* needs no database: it may be the one who brings it back */
		who->name = strdup("responder");
		return who->name ? LET_IN : UNAVAILABLE;
	}
	if(!connected()) return UNAVAILABLE;
	enum verdict verdict = look_up(client, username, password, who);
	if(verdict == UNAVAILABLE) unavailable(sqlite3_errmsg(db.connection));
	if(verdict != LET_IN) principal_free(who);
	return verdict;
}

bool credentials_may_stay(const struct principal *who)
{
	if(who->role != ROLE_DEVICE) return true;
	if(!connected()) return true; /* it was let in; whoever knows that it must go says so by a kick */
	sqlite3_stmt *found = db.statements[MAY_STAY];
	sqlite3_bind_text(found, 1, who->device_id, -1, SQLITE_STATIC);
	sqlite3_bind_int64(found, 2, who->generation);
	bool may_stay = sqlite3_step(found) != SQLITE_DONE;
	done_with(found);
	return may_stay;
}

void principal_free(struct principal *who)
{
	free(who->name);
	free(who->patterns[PUBLISH]);
	free(who->patterns[SUBSCRIBE]);
	memset(who, 0, sizeof(*who));
}
