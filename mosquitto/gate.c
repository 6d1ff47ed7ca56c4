/* The plugin's entry and its callbacks. Who may what is decided in credentials.c and topics.c. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "gate.h"

#define SESSION_LIFE_S 60    /* of a provisioning session, as with ThingsBoard */
#define REQUEST_PATIENCE_S 5 /* for so long another connection may not take over a provisioning session's client id */
#define MAX_REQUEST_BYTES (16384 + 1) /* the rest of a longer one is not needed to refuse it */
#define MAX_FIRST_LOGINS 65536
#define MAX_REFUSALS 64
#define REFUSALS_EVERY_S 5
#define SEEN_AT_ONCE 256
#define ROUND_S 10          /* after so long the responder is told again of what it has not settled */
#define TELL_AT_ONCE 500    /* of that; more might not fit into the broker's queue for the responder */

/* A first login that the responder has not recorded yet. */
struct first_login {
	char place[ID_CHARS + 24]; /* "<device id> <generation>" */
	char source[64];
	char *name; /* of the device */
	unsigned told;
	UT_hash_handle hh;
};

/* A client id that was sent a reply. */
struct replied {
	UT_hash_handle hh;
	char client_id[];
};

static mosquitto_plugin_id_t *plugin_id;
static struct first_login *first_logins;
/* Client ids that were sent a reply in this turn of the broker's loop: what a plugin sends to a client id leaves in the
 * next turn, and whoever connects with it until then would get it. */
static struct replied *replied;
/* What the responder has not settled is told once in each round. A new one begins when a responder comes or goes. */
static unsigned round_number;
static size_t responders;
static bool more_to_tell;
static unsigned ticks_to_round; /* 0: no round is due */
static struct { char source[64]; enum verdict reason; unsigned count; } refusals[MAX_REFUSALS];
static size_t refusal_count;
static time_t refusals_told, seen_told, round_began, swept;
static bool reloading; /* between the broker's reload and its next turn: it asks again of all whom it knows */
static int (*set_client_id)(struct mosquitto *, const char *); /* 2.1 and newer; NULL: the broker has none */

static void publish(const char *client_id, const char *topic, const void *payload, size_t size, int qos, const char *key, const char *value)
{
	mosquitto_property *properties = NULL;
	void *copy = size ? mosquitto_malloc(size) : NULL; /* not the _copy call: in 2.0 it uses another allocator */
	if(size && !copy) return;
	if(size) memcpy(copy, payload, size);
	if(key && mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, key, value)){
		mosquitto_free(copy);
		return;
	}
	if(mosquitto_broker_publish(client_id, topic, (int)size, copy, qos, false, properties)){
		mosquitto_property_free_all(&properties);
		mosquitto_free(copy);
	}
}

static void to_responder(const char *kind, const char *id, const void *payload, size_t size, const char *key, const char *value)
{
	char topic[64];
	snprintf(topic, sizeof(topic), INTERNAL "%s/%s", kind, id);
	publish(NULL, topic, payload, size, 1, key, value);
}

static const char *source_of(const struct mosquitto *client)
{
	const char *address = mosquitto_client_address(client);
	return address ? address : "";
}

/* --- what the responder is told --- */

static void tell_first_login(struct first_login *login)
{
	char text[sizeof(login->place) + 1 + MAX_NAME_BYTES];
	int size = snprintf(text, sizeof(text), "%s %s", login->place, login->name);
	login->told = round_number;
	to_responder("login", "first", text, (size_t)size, "source", login->source);
}

static void forget_first_login(struct first_login *login)
{
	HASH_DEL(first_logins, login);
	free(login->name);
	free(login);
}

static void note_first_login(const struct principal *who, const char *source)
{
	char place[sizeof(((struct first_login *)0)->place)];
	struct first_login *login = NULL;
	snprintf(place, sizeof(place), "%s %lld", who->device_id, (long long)who->generation);
	HASH_FIND_STR(first_logins, place, login);
	if(!login && HASH_COUNT(first_logins) < MAX_FIRST_LOGINS && (login = calloc(1, sizeof(*login)))){
		memcpy(login->place, place, sizeof(place));
		snprintf(login->source, sizeof(login->source), "%s", source);
		login->name = strdup(who->name);
		HASH_ADD_STR(first_logins, place, login);
		if(!login->name){
			forget_first_login(login);
			login = NULL;
		}
	}
	if(login) tell_first_login(login); /* else: its next login is a first one again */
}

static void tell_request(struct session *session)
{
	session->told = round_number;
	to_responder("request", session->handle, session->request, session->request_size, "source", source_of(session->client));
}

static void new_round(time_t now)
{
	round_number++;
	round_began = now;
	more_to_tell = responders > 0;
}

/* Tell the responders again of what none of them has settled, a part at a time. */
static void tell_unsettled(void)
{
	size_t told = 0;
	struct first_login *login, *next;
	HASH_ITER(hh, first_logins, login, next){
		if(login->told == round_number) continue;
		if(told++ >= TELL_AT_ONCE) return;
		tell_first_login(login);
	}
	for(struct session *session = session_next(NULL); session; session = session_next(session)){
		if(!session->request || session->told == round_number) continue;
		if(told++ >= TELL_AT_ONCE) return;
		tell_request(session);
	}
	more_to_tell = false;
}

/* Tell which devices are in use: those that log in say so by themselves. */
static void tell_seen(time_t now)
{
	char ids[SEEN_AT_ONCE * (ID_CHARS + 1)];
	size_t size = 0;
	if(now - seen_told < SEEN_EVERY_S && now >= seen_told) return;
	seen_told = now;
	for(struct session *session = session_next(NULL); session; session = session_next(session)){
		if(!session->device || session->device->first != session) continue;
		memcpy(ids + size, session->device->id, ID_CHARS);
		size += ID_CHARS;
		ids[size++] = ' ';
		if(size == sizeof(ids)){
			to_responder("login", "seen", ids, size, NULL, NULL);
			size = 0;
		}
	}
	if(size) to_responder("login", "seen", ids, size, NULL, NULL);
}

static void tell_refusals(time_t now)
{
	static const char *const reasons[] = {"", "unknown", "wrong-password", "state", "unavailable"};
	char count[16];
	if(now - refusals_told < REFUSALS_EVERY_S && now >= refusals_told) return;
	refusals_told = now;
	for(size_t i = 0; i < refusal_count; i++){
		int size = snprintf(count, sizeof(count), "%u", refusals[i].count);
		to_responder("refused", reasons[refusals[i].reason], count, (size_t)size, "source", refusals[i].source);
	}
	refusal_count = 0;
}

static void note_refusal(const char *source, enum verdict reason)
{
	size_t i = 0;
	if(reason == UNAVAILABLE) return; /* then there is nowhere to record it */
	while(i < refusal_count && (refusals[i].reason != reason || strcmp(refusals[i].source, source))) i++;
	if(i == MAX_REFUSALS) i--; /* sources beyond the bound are told together */
	if(i == refusal_count){
		snprintf(refusals[i].source, sizeof(refusals[i].source), "%s", source);
		refusals[i].reason = reason;
		refusals[i].count = 0;
		refusal_count++;
	}
	refusals[i].count++;
}

/* --- connecting --- */

static bool was_replied(const char *client_id)
{
	struct replied *found = NULL;
	HASH_FIND_STR(replied, client_id, found);
	return found != NULL;
}

static bool note_replied(const char *client_id)
{
	size_t size = strlen(client_id) + 1;
	if(was_replied(client_id)) return true;
	struct replied *entry = malloc(sizeof(*entry) + size);
	if(!entry) return false;
	memcpy(entry->client_id, client_id, size);
	HASH_ADD_STR(replied, client_id, entry);
	return true;
}

static void forget_replied(void)
{
	struct replied *entry, *next;
	HASH_ITER(hh, replied, entry, next){
		HASH_DEL(replied, entry);
		free(entry);
	}
}

/* Whether a provisioning session may begin under this client id, which many devices share. */
static bool may_displace(const struct session *session, time_t now)
{
	if(session->who.role != ROLE_PROVISIONING) return false;
	return now - session->since >= REQUEST_PATIENCE_S && !session->request;
}

static void end_session(struct session *session)
{
	if(session->who.role == ROLE_RESPONDER){
		responders--;
		ticks_to_round = 2; /* what it had not settled is for the others; in this turn the broker still counts on it */
	}
	session_remove(session);
}

static int let_in(struct mosquitto *client, struct principal *who, time_t now)
{
	const char *client_id = mosquitto_client_id(client);
	struct session *holder = session_by_client_id(client_id);
	if(who->role == ROLE_PROVISIONING){
		if(!mosquitto_client_clean_session(client)) return MOSQ_ERR_AUTH; /* it must not outlive its connection */
		char unique[HANDLE_CHARS + 12] = "provision-";
		if(set_client_id){
			if(!random_hex(unique + 10, HANDLE_CHARS) || set_client_id(client, unique)) return MOSQ_ERR_AUTH;
			client_id = mosquitto_client_id(client);
			holder = NULL;
		}
	}
	if(was_replied(client_id)) return MOSQ_ERR_AUTH;
	if(holder){
		bool same = holder->who.role == who->role && who->role != ROLE_PROVISIONING && !strcmp(holder->who.name, who->name);
		bool in_turn = who->role == ROLE_PROVISIONING && may_displace(holder, now);
		if(!same && !in_turn) return MOSQ_ERR_AUTH;
	}
	struct session *session = session_add(client, who);
	if(!session) return MOSQ_ERR_AUTH;
	memset(who, 0, sizeof(*who)); /* the session's now */
	who = &session->who;
	responders += who->role == ROLE_RESPONDER;
	/* From here on the log and the access rules see the principal; no token reaches a log. */
	char *principal = NULL;
	bool named = asprintf(&principal, "%c:%s", "pdovr"[who->role], who->name ? who->name : session->handle) >= 0 &&
		!mosquitto_set_username(client, principal);
	free(principal);
	if(!named){
		end_session(session);
		return MOSQ_ERR_AUTH;
	}
	if(who->first) note_first_login(who, source_of(client));
	else if(who->stale) to_responder("login", "seen", who->device_id, ID_CHARS, NULL, NULL);
	return MOSQ_ERR_SUCCESS;
}

/* SHA-256 of the client's certificate, hex; false if there is none. */
static bool fingerprint_of(const struct mosquitto *client, char text[65])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int length = 0;
	X509 *certificate = mosquitto_client_certificate(client);
	bool made = certificate && X509_digest(certificate, EVP_sha256(), digest, &length) == 1 && length == 32;
	if(made) hex(text, digest, length);
	X509_free(certificate);
	return made;
}

static int on_connect(int event, void *data, void *unused)
{
	struct mosquitto_evt_basic_auth *connect = data;
	struct mosquitto *client = connect->client;
	const char *client_id = mosquitto_client_id(client), *username = connect->username;
	struct session *known = session_of(client);
	struct principal who = {0};
	time_t now = time(NULL);
	(void)event, (void)unused;
	/* Whom we do not know then is a durable session without connection, which gets nothing until it logs in. */
	if(reloading) return !known || credentials_may_stay(&known->who) ? MOSQ_ERR_SUCCESS : MOSQ_ERR_AUTH;
	if(known) end_session(known); /* of another connection that was in this place; its end was not told */
	tell_refusals(now);
	if(!client_id) return MOSQ_ERR_AUTH;
	if((username && !strcmp(username, "provision")) || !strcmp(client_id, "provision")){
		who.role = ROLE_PROVISIONING;
		return let_in(client, &who, now);
	}
	char fingerprint[65];
	struct attempt attempt = {client_id, username, connect->password, fingerprint_of(client, fingerprint) ? fingerprint : NULL};
	enum verdict verdict = credentials_check(&attempt, &who);
	if(verdict != LET_IN){
		note_refusal(source_of(client), verdict);
		return MOSQ_ERR_AUTH; /* one answer for every reason */
	}
	int result = let_in(client, &who, now);
	principal_free(&who);
	return result;
}

static int on_disconnect(int event, void *data, void *unused)
{
	struct session *session = session_of(((struct mosquitto_evt_disconnect *)data)->client);
	(void)event, (void)unused;
	if(session) end_session(session);
	return MOSQ_ERR_SUCCESS;
}

/* --- topics --- */

static int on_access(int event, void *data, void *unused)
{
	struct mosquitto_evt_acl_check *check = data;
	struct session *session = session_of(check->client);
	bool allowed = false;
	(void)event, (void)unused;
	if(!session || !check->topic) return MOSQ_ERR_ACL_DENIED;
	switch(check->access){
		case MOSQ_ACL_READ:
			allowed = may_receive(&session->who, check->topic);
			break;
		case MOSQ_ACL_WRITE:
			allowed = may_publish(&session->who, check->topic) && !(check->retain && session->who.role == ROLE_PROVISIONING);
			break;
		case MOSQ_ACL_SUBSCRIBE:
			allowed = may_subscribe(&session->who, check->topic);
			if(allowed && session->who.role == ROLE_PROVISIONING) session->response_qos = check->qos > 1 ? 1 : check->qos;
			if(allowed && session->who.role == ROLE_DEVICE && is_own_topic(check->topic)){
				allowed = session_subscribe(session, check->topic, check->qos);
				bool calls = allowed && !strncmp(check->topic, CALLS, strlen(CALLS));
				if(calls && session->who.rotation_due){
					to_responder("listens", session->handle, session->who.name, strlen(session->who.name), NULL, NULL);
				}
			}
			break;
		case MOSQ_ACL_UNSUBSCRIBE:
			session_unsubscribe(session, check->topic);
			allowed = true;
			break;
	}
	return allowed ? MOSQ_ERR_SUCCESS : MOSQ_ERR_ACL_DENIED;
}

static void tell_device(const char *name, const char *topic, const struct mosquitto_evt_message *message)
{
	struct device *device = device_by_name(name);
	for(struct session *s = device ? device->first : NULL; s; s = s->next_of_device){
		int granted = session_granted(s, topic);
		if(granted >= 0) publish(s->client_id, topic, message->payload, message->payloadlen, granted < message->qos ? granted : message->qos, NULL, NULL);
	}
}

static void from_device(struct session *session, struct mosquitto_evt_message *message)
{
	char *inward = topic_inward(session->who.name, message->topic);
	message->retain = false; /* nobody could ever read it there */
	if(!inward) return;
	publish(NULL, inward, message->payload, message->payloadlen, message->qos, NULL, NULL);
	const char *kind = NULL;
	if(strstr(message->topic, "/rpc/request/") || strstr(message->topic, "/attributes/request/")) kind = "ask";
	else if(strstr(message->topic, "/rpc/response/")) kind = "told";
	if(kind) to_responder(kind, session->handle, message->payload, message->payloadlen, "topic", inward);
	free(inward);
}

static int on_message(int event, void *data, void *unused)
{
	struct mosquitto_evt_message *message = data;
	struct session *session = session_of(message->client);
	(void)event, (void)unused;
	if(!session || !message->topic) return MOSQ_ERR_ACL_DENIED;
	if(session->who.role == ROLE_PROVISIONING){
		if(session->request) return MOSQ_ERR_ACL_DENIED;
		session->request_size = message->payloadlen < MAX_REQUEST_BYTES ? message->payloadlen : MAX_REQUEST_BYTES;
		session->request = malloc(session->request_size + 1);
		if(!session->request) return MOSQ_ERR_ACL_DENIED;
		if(session->request_size) memcpy(session->request, message->payload, session->request_size);
		tell_request(session);
	}else if(session->who.role == ROLE_DEVICE && is_own_topic(message->topic)){
		from_device(session, message);
	}else{
		char name[MAX_NAME_BYTES + 1], *outward = topic_outward(message->topic, name);
		if(outward) tell_device(name, outward, message);
		free(outward);
	}
	return MOSQ_ERR_SUCCESS; /* the original is routed to nobody but operators: see may_receive */
}

/* --- what the responder says --- */

static void kick(struct session *session)
{
	char *client_id = strdup(session->client_id); /* the session ends with the call */
	if(client_id) mosquitto_kick_client_by_clientid(client_id, false);
	free(client_id);
}

static void kick_device(const char *id, long long below_generation)
{
	struct device *device = device_by_id(id);
	struct session *session = device ? device->first : NULL;
	while(session){
		struct session *next = session->next_of_device;
		if(!below_generation || session->who.generation < below_generation) kick(session);
		session = next;
	}
}

static void reply(const char *handle, const char *payload, size_t size)
{
	struct session *session = session_by_handle(handle);
	/* If that connection is gone, nobody else may have its reply; and what was answered is not answered again. */
	if(!session || !session->request || !note_replied(session->client_id)) return;
	free(session->request);
	session->request = NULL;
	session->since = time(NULL);
	publish(session->client_id, RESPONSE_TOPIC, payload, size, session->response_qos < 0 ? 1 : session->response_qos, NULL, NULL);
}

static bool to_session(const struct session *session, const char *topic, const char *payload, size_t size)
{
	int granted = session->who.role == ROLE_DEVICE && is_own_topic(topic) ? session_granted(session, topic) : -1;
	if(granted >= 0) publish(session->client_id, topic, payload, size, granted > 1 ? 1 : granted, NULL, NULL);
	return granted >= 0;
}

/* Call a procedure of a device, and say on how many connections it is and how many of them listen. */
static void call_device(const char *id, long long number, const char *payload, size_t size)
{
	char topic[sizeof(CALLS) + 32], counts[32], called[32];
	unsigned connected = 0, listening = 0;
	struct device *device = device_by_id(id);
	snprintf(called, sizeof(called), "%lld", number);
	snprintf(topic, sizeof(topic), CALLS "/%s", called);
	for(struct session *s = device ? device->first : NULL; s; s = s->next_of_device){
		connected++;
		if(to_session(s, topic, payload, size)) listening++;
		else s->who.rotation_due = true; /* what it missed is told again once it listens */
	}
	int length = snprintf(counts, sizeof(counts), "%u %u", connected, listening);
	to_responder("called", called, counts, (size_t)length, NULL, NULL);
}

static void recorded(const char *id, long long generation)
{
	char place[sizeof(((struct first_login *)0)->place)];
	struct first_login *login = NULL;
	snprintf(place, sizeof(place), "%.*s %lld", ID_CHARS, id, generation);
	HASH_FIND_STR(first_logins, place, login);
	if(login) forget_first_login(login);
}

/* Do what one line says: a verb, an id, a number and the rest. Of reply, send and call the number is that of the bytes
 * behind the line that belong to it. */
static bool obey(const char *line, const char *payload, size_t available, size_t *used)
{
	char verb[16], id[64] = "";
	long long number = -1;
	int rest = 0;
	int words = sscanf(line, "%15s %63s %lld %n", verb, id, &number, &rest);
	struct session *session = session_by_handle(id);
	bool carries = words == 3 && (!strcmp(verb, "reply") || !strcmp(verb, "send") || !strcmp(verb, "call"));
	size_t size = carries && number > 0 ? (size_t)number : 0;
	if(size > available || (words == 3 && number < 0)) return false;
	*used = size;
	if(words == 1 && !strcmp(verb, "hello")){
		new_round(time(NULL));
	}else if(words == 2 && !strcmp(verb, "end")){
		if(session) kick(session);
	}else if(words == 3 && !strcmp(verb, "kick")){
		kick_device(id, number);
	}else if(words == 3 && !strcmp(verb, "recorded")){
		recorded(id, number);
	}else if(words == 3 && !strcmp(verb, "reply")){
		reply(id, payload, size);
	}else if(words == 3 && !strcmp(verb, "send")){
		if(session) to_session(session, line + rest, payload, size);
	}else if(words == 3 && !strcmp(verb, "call")){
		call_device(id, strtoll(line + rest, NULL, 10), payload, size);
	}else{
		return false;
	}
	return true;
}

/* Commands, one behind the other: each a line, and behind its line feed what belongs to it. */
static int on_control(int event, void *data, void *unused)
{
	struct mosquitto_evt_control *control = data;
	struct session *session = session_of(control->client);
	const char *at = control->payload;
	size_t left = control->payloadlen;
	char line[512];
	(void)event, (void)unused;
	if(!session || session->who.role != ROLE_RESPONDER) return MOSQ_ERR_SUCCESS;
	while(left){
		const char *stop = memchr(at, '\n', left);
		size_t length = stop ? (size_t)(stop - at) : left, used = 0, taken = stop ? length + 1 : length;
		snprintf(line, sizeof(line), "%.*s", (int)(length < sizeof(line) ? length : 0), at);
		if(!obey(line, at + taken, left - taken, &used)){
			mosquitto_log_printf(MOSQ_LOG_WARNING, "mqttprov: a command of the responder is not understood; update both together");
			break;
		}
		at += taken + used;
		left -= taken + used;
	}
	return MOSQ_ERR_SUCCESS;
}

static int on_tick(int event, void *data, void *unused)
{
	time_t now = time(NULL);
	(void)event, (void)data, (void)unused;
	reloading = false;
	forget_replied();
	if(ticks_to_round && !--ticks_to_round) new_round(now);
	if(now == swept && !more_to_tell) return MOSQ_ERR_SUCCESS; /* under load this is called for every turn of the loop */
	if(more_to_tell) tell_unsettled();
	if(now == swept) return MOSQ_ERR_SUCCESS;
	swept = now;
	if(now - round_began >= ROUND_S || now < round_began) new_round(now);
	tell_refusals(now);
	tell_seen(now);
	struct session *next;
	for(struct session *session = session_next(NULL); session; session = next){
		next = session_next(session);
		if(session->who.role == ROLE_PROVISIONING && now - session->since > SESSION_LIFE_S) kick(session);
	}
	return MOSQ_ERR_SUCCESS;
}

static int on_reload(int event, void *data, void *unused)
{
	(void)event, (void)data, (void)unused;
	reloading = true;
	return MOSQ_ERR_SUCCESS;
}

/* --- the plugin --- */

#define EVT_CLIENT_OFFLINE 28 /* 2.1 and newer tell so, not by DISCONNECT, that a durable session's connection ends */

static const struct { int event; MOSQ_FUNC_generic_callback callback; const char *data; } callbacks[] = {
	{MOSQ_EVT_RELOAD, on_reload, NULL}, {MOSQ_EVT_BASIC_AUTH, on_connect, NULL}, {MOSQ_EVT_DISCONNECT, on_disconnect, NULL},
	{MOSQ_EVT_ACL_CHECK, on_access, NULL}, {MOSQ_EVT_MESSAGE, on_message, NULL}, {MOSQ_EVT_TICK, on_tick, NULL},
	{MOSQ_EVT_CONTROL, on_control, CONTROL_TOPIC},
};
#define EXPORTED __attribute__((visibility("default")))
#define CALLBACKS (sizeof(callbacks) / sizeof(*callbacks))

EXPORTED int mosquitto_plugin_version(int count, const int *versions)
{
	for(int i = 0; i < count; i++) if(versions[i] == 5) return 5;
	return -1;
}

EXPORTED int mosquitto_plugin_init(mosquitto_plugin_id_t *identifier, void **unused, struct mosquitto_opt *options, int count)
{
	const char *database = NULL, *pepper = NULL, *responder = NULL;
	(void)unused;
	plugin_id = identifier;
	for(int i = 0; i < count; i++){
		if(!strcmp(options[i].key, "database")) database = options[i].value;
		else if(!strcmp(options[i].key, "pepper_file")) pepper = options[i].value;
		else if(!strcmp(options[i].key, "responder_file")) responder = options[i].value;
	}
	if(!database || !pepper || !responder){
		mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: plugin_opt_database, plugin_opt_pepper_file and plugin_opt_responder_file are needed");
		return MOSQ_ERR_INVAL;
	}
	if(!credentials_open(database, pepper, responder)) return MOSQ_ERR_INVAL;
	*(void **)&set_client_id = dlsym(RTLD_DEFAULT, "mosquitto_set_clientid");
	if(!set_client_id){
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "mqttprov: this Mosquitto cannot tell apart devices that share a client id:"
			" those that provision as `provision` do so one after another; 2.1 serves them at once");
	}
	for(size_t i = 0; i < CALLBACKS; i++){
		int result = mosquitto_callback_register(identifier, callbacks[i].event, callbacks[i].callback, callbacks[i].data, NULL);
		if(result) return result;
	}
	mosquitto_callback_register(identifier, EVT_CLIENT_OFFLINE, on_disconnect, NULL, NULL); /* refused by 2.0 */
	return MOSQ_ERR_SUCCESS;
}

EXPORTED int mosquitto_plugin_cleanup(void *unused, struct mosquitto_opt *options, int count)
{
	(void)unused, (void)options, (void)count;
	for(size_t i = 0; i < CALLBACKS; i++){
		mosquitto_callback_unregister(plugin_id, callbacks[i].event, callbacks[i].callback, callbacks[i].data);
	}
	mosquitto_callback_unregister(plugin_id, EVT_CLIENT_OFFLINE, on_disconnect, NULL);
	struct first_login *login, *next;
	HASH_ITER(hh, first_logins, login, next) forget_first_login(login);
	forget_replied();
	while(session_next(NULL)) session_remove(session_next(NULL));
	credentials_close();
	return MOSQ_ERR_SUCCESS;
}
