/* What a CONNECT presents, against the database. The same rules as mqttprov/core/login.py: keyed hashes only, compared in
 * constant time. It fails closed: whatever is wrong with the database, nobody comes in until it is right again. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <sqlite3.h>

#include "gate.h"

#define KEY_BYTES 32
#define MAC_CHARS 64
#define MAX_SECRET_CHARS 128
#define APPLICATION_ID 0x6D717076

enum query { FIND_LOGIN, FIND_OPERATOR, FIND_STATE, QUERIES };

static const char *const queries[QUERIES] = {
	[FIND_LOGIN] =
	"SELECT c.login_key, c.generation, c.status, c.verifier, d.id, d.name, d.state,"
	" iif(p.publish_topics <> '[]', (SELECT group_concat(value, char(10)) FROM json_each(p.publish_topics)), NULL),"
	" iif(p.subscribe_topics <> '[]', (SELECT group_concat(value, char(10)) FROM json_each(p.subscribe_topics)), NULL),"
	" c.generation <= d.rotate_from, coalesce(d.last_seen_ms, 0)"
	" FROM credential c JOIN device d ON d.id = c.device_id JOIN profile p ON p.id = d.profile_id"
	" WHERE c.login_key IN (?1, ?2, ?3) AND c.status <> 'superseded'"
	" ORDER BY c.client_id IS NULL, c.generation DESC", /* bound to the client id first, as in ThingsBoard */
	[FIND_OPERATOR] = "SELECT role, verifier FROM operator WHERE name = ?1",
	[FIND_STATE] =
	"SELECT d.state FROM device d JOIN credential c ON c.device_id = d.id AND c.generation = ?2"
	" WHERE d.id = ?1 AND c.status <> 'superseded'",
};

static struct {
	char *path;
	unsigned char pepper[KEY_BYTES];
	char responder[MAX_SECRET_CHARS];
	sqlite3 *connection;
	sqlite3_stmt *statements[QUERIES];
	dev_t device;
	ino_t file;
	bool complained;
} db;

/* Read a secret of one line; others must not be able to. */
static bool read_secret(const char *path, char *text, size_t size)
{
	struct stat status;
	int file = open(path, O_RDONLY | O_CLOEXEC);
	bool fine = file >= 0 && !fstat(file, &status) && S_ISREG(status.st_mode);
	if(fine && (status.st_mode & (S_IRWXG | S_IRWXO))){
		mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: %s is a secret but others may read it; run: chmod 600 %s", path, path);
		fine = false;
	}else if(fine){
		ssize_t n = read(file, text, size - 1);
		text[n > 0 ? n : 0] = '\0';
		text[strcspn(text, "\r\n")] = '\0';
		fine = text[0] != '\0';
	}
	if(!fine) mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: cannot read the secret in %s", path);
	if(file >= 0) close(file);
	return fine;
}

bool credentials_open(const char *database, const char *pepper_file, const char *responder_file)
{
	char text[2 * KEY_BYTES + 2];
	long length = 0;
	db.path = strdup(database);
	if(!db.path || !read_secret(pepper_file, text, sizeof(text))) return false;
	unsigned char *pepper = OPENSSL_hexstr2buf(text, &length);
	OPENSSL_cleanse(text, sizeof(text));
	if(!pepper || length != KEY_BYTES){
		mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: %s does not hold a key of %d bytes in hex digits", pepper_file, KEY_BYTES);
		OPENSSL_free(pepper);
		return false;
	}
	memcpy(db.pepper, pepper, KEY_BYTES);
	OPENSSL_clear_free(pepper, KEY_BYTES);
	return read_secret(responder_file, db.responder, sizeof(db.responder));
}

static void disconnect(void)
{
	for(int i = 0; i < QUERIES; i++){
		sqlite3_finalize(db.statements[i]);
		db.statements[i] = NULL;
	}
	sqlite3_close(db.connection);
	db.connection = NULL;
}

void credentials_close(void)
{
	disconnect();
	free(db.path);
	OPENSSL_cleanse(&db, sizeof(db));
}

static int pragma(const char *name)
{
	sqlite3_stmt *statement = NULL;
	int value = -1;
	if(sqlite3_prepare_v2(db.connection, name, -1, &statement, NULL) == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW){
		value = sqlite3_column_int(statement, 0);
	}
	sqlite3_finalize(statement);
	return value;
}

static bool unavailable(const char *why)
{
	if(!db.complained) mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: nobody is let in: %s: %s", db.path, why);
	db.complained = true; /* once until it is right again: a fleet that knocks must not fill the log */
	disconnect();
	return false;
}

/* Let a statement hold no lock and no secret while it waits for its next use. */
static void done_with(sqlite3_stmt *statement)
{
	sqlite3_reset(statement);
	sqlite3_clear_bindings(statement);
}

/* Make sure that the database is open, and that it is still the one at this path. */
static bool connected(void)
{
	struct stat status;
	if(stat(db.path, &status)) return unavailable("there is no database");
	if(db.connection && status.st_dev == db.device && status.st_ino == db.file) return true;
	disconnect();
	if(sqlite3_open_v2(db.path, &db.connection, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK){
		return unavailable("it cannot be opened");
	}
	sqlite3_busy_timeout(db.connection, 0); /* the broker serves nobody while this waits */
	if(pragma("PRAGMA application_id") != APPLICATION_ID) return unavailable("it is no database of mqttprov, or it is locked");
	if(pragma("PRAGMA user_version") < SCHEMA_VERSION) return unavailable("its schema is too old; run any mqttprov command on it");
	for(int i = 0; i < QUERIES; i++){
		if(sqlite3_prepare_v3(db.connection, queries[i], -1, SQLITE_PREPARE_PERSISTENT, &db.statements[i], NULL) != SQLITE_OK){
			return unavailable(sqlite3_errmsg(db.connection));
		}
	}
	db.device = status.st_dev;
	db.file = status.st_ino;
	if(db.complained) mosquitto_log_printf(MOSQ_LOG_NOTICE, "mqttprov: %s can be used again", db.path);
	db.complained = false;
	return true;
}

void hex(char *text, const unsigned char *bytes, size_t count)
{
	for(size_t i = 0; i < count; i++) snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

/* The keyed hash (hex) of up to three parts, joined by NUL: none of them can hold one. */
static void mac(char text[MAC_CHARS + 1], const char *use, const char *first, const char *second)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int length = 0;
	char *message = NULL;
	int size = second ? asprintf(&message, "%s%c%s%c%s", use, 0, first, 0, second) : asprintf(&message, "%s%c%s", use, 0, first);
	text[0] = '\0';
	if(size < 0) return; /* an empty hash is nobody's */
	if(HMAC(EVP_sha256(), db.pepper, KEY_BYTES, (unsigned char *)message, (size_t)size, digest, &length) && length == KEY_BYTES){
		hex(text, digest, KEY_BYTES);
	}
	OPENSSL_cleanse(message, (size_t)size);
	free(message);
}

static bool equal(const char *a, const char *b)
{
	return a && b && strlen(a) == MAC_CHARS && strlen(b) == MAC_CHARS && !CRYPTO_memcmp(a, b, MAC_CHARS);
}

static const char *column(sqlite3_stmt *statement, int i)
{
	return (const char *)sqlite3_column_text(statement, i);
}

/* The same states as mqttprov/core/lifecycle.py lets log in. */
static bool may_log_in(const char *state)
{
	return !strcmp(state, "provisioned") || !strcmp(state, "active");
}

static char *copy(const char *text)
{
	return text && *text ? strdup(text) : NULL;
}

/* Take one row of the login query. */
static enum verdict judge(sqlite3_stmt *row, const char *password, struct principal *who)
{
	const char *login_key = column(row, 0), *verifier = column(row, 3), *name = column(row, 5), *state = column(row, 6);
	const char *id = column(row, 4), *status = column(row, 2);
	char presented[MAC_CHARS + 1];
	if(!login_key || !id || !name || !state || !status || strlen(id) != ID_CHARS) return UNAVAILABLE;
	if(verifier){
		mac(presented, "login-password", login_key, password);
		if(!equal(presented, verifier)) return REFUSED_PASSWORD;
	}
	if(!may_log_in(state) || !is_name(name)) return REFUSED_STATE;
	who->role = ROLE_DEVICE;
	who->generation = sqlite3_column_int64(row, 1);
	who->first = !strcmp(status, "issued");
	who->rotation_due = sqlite3_column_int(row, 9);
	who->stale = !who->first && (int64_t)time(NULL) * 1000 - sqlite3_column_int64(row, 10) >= SEEN_EVERY_S * 1000LL;
	memcpy(who->device_id, id, ID_CHARS + 1);
	who->name = strdup(name);
	who->publish_patterns = copy(column(row, 7));
	who->subscribe_patterns = copy(column(row, 8));
	return who->name ? LET_IN : UNAVAILABLE;
}

static enum verdict check_operator(const struct attempt *attempt, struct principal *who)
{
	enum verdict verdict = REFUSED_UNKNOWN;
	char presented[MAC_CHARS + 1];
	sqlite3_stmt *found = db.statements[FIND_OPERATOR];
	sqlite3_bind_text(found, 1, attempt->username, -1, SQLITE_STATIC);
	int step = sqlite3_step(found);
	if(step == SQLITE_ROW){
		mac(presented, "operator-password", attempt->username, attempt->password);
		verdict = REFUSED_PASSWORD;
		if(equal(presented, column(found, 1))){
			who->role = strcmp(column(found, 0), "operator") ? ROLE_OBSERVER : ROLE_OPERATOR;
			who->name = strdup(attempt->username);
			verdict = who->name ? LET_IN : UNAVAILABLE;
		}
	}else if(step != SQLITE_DONE){
		verdict = UNAVAILABLE;
	}
	done_with(found);
	return verdict;
}

static enum verdict check_device(const struct attempt *attempt, struct principal *who)
{
	enum verdict verdict = REFUSED_UNKNOWN;
	sqlite3_stmt *found = db.statements[FIND_LOGIN];
	char keys[3][MAC_CHARS + 1] = {"", "", ""};
	const char *password = attempt->password ? attempt->password : "";
	if(attempt->username){
		mac(keys[0], "login-token", attempt->username, NULL);
		if(attempt->password){
			mac(keys[1], "login-basic", attempt->username, NULL);
			if(attempt->client_id[0]) mac(keys[2], "login-basic-id", attempt->username, attempt->client_id);
		}
	}else{
		mac(keys[0], "login-certificate", attempt->fingerprint, NULL);
	}
	for(int i = 0; i < 3; i++) sqlite3_bind_text(found, i + 1, keys[i][0] ? keys[i] : NULL, -1, SQLITE_STATIC);
	int step;
	while((step = sqlite3_step(found)) == SQLITE_ROW){
		verdict = judge(found, password, who);
		if(verdict != REFUSED_PASSWORD) break;
	}
	if(step != SQLITE_ROW && step != SQLITE_DONE) verdict = UNAVAILABLE;
	done_with(found);
	return verdict;
}

static bool is_responder(const struct attempt *attempt)
{
	return attempt->username && attempt->password && !strcmp(attempt->username, "_responder") &&
		strlen(attempt->password) == strlen(db.responder) &&
		!CRYPTO_memcmp(attempt->password, db.responder, strlen(db.responder));
}

enum verdict credentials_check(const struct attempt *attempt, struct principal *who)
{
	enum verdict verdict;
	memset(who, 0, sizeof(*who));
	if(is_responder(attempt)){ /* needs no database: it may be the one who brings it back */
		who->role = ROLE_RESPONDER;
		who->name = strdup("responder");
		return who->name ? LET_IN : UNAVAILABLE;
	}
	if(!attempt->username && !attempt->fingerprint) return REFUSED_UNKNOWN;
	if(!connected()) return UNAVAILABLE;
	/* The operator comes first: a device may have chosen a token or user name that is an operator's name. */
	verdict = attempt->username && attempt->password ? check_operator(attempt, who) : REFUSED_UNKNOWN;
	if(verdict == REFUSED_UNKNOWN || verdict == REFUSED_PASSWORD){
		enum verdict of_device = check_device(attempt, who);
		if(of_device != REFUSED_UNKNOWN) verdict = of_device;
	}
	if(verdict == UNAVAILABLE) unavailable(db.connection ? sqlite3_errmsg(db.connection) : "no memory");
	if(verdict != LET_IN) principal_free(who);
	return verdict;
}

bool credentials_may_stay(const struct principal *who)
{
	if(who->role != ROLE_DEVICE) return true;
	if(!connected()) return true; /* it was let in; whoever knows that it must go says so by a kick */
	sqlite3_stmt *found = db.statements[FIND_STATE];
	sqlite3_bind_text(found, 1, who->device_id, -1, SQLITE_STATIC);
	sqlite3_bind_int64(found, 2, who->generation);
	int step = sqlite3_step(found);
	bool may = step == SQLITE_ROW ? column(found, 0) && may_log_in(column(found, 0)) : step != SQLITE_DONE;
	done_with(found);
	return may;
}

void principal_free(struct principal *who)
{
	free(who->name);
	free(who->publish_patterns);
	free(who->subscribe_patterns);
	memset(who, 0, sizeof(*who));
}

bool random_hex(char *text, size_t digits)
{
	unsigned char raw[32];
	if(digits > 2 * sizeof(raw) || RAND_bytes(raw, (int)(digits / 2)) != 1) return false;
	hex(text, raw, digits / 2);
	return true;
}
