/* The plugin's entry and its callbacks. Who may what is decided in credentials.c and topics.c. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gate.h"

#define SESSION_LIFE_S 60 /* of a provisioning session, as with ThingsBoard */
#define REQUEST_PATIENCE_S 5 /* for so long nobody else gets the client id of a provisioning session */
#define ABSENCE_S 4 /* for so long a request waits for a responder: one that restarts is back by then */
#define MAX_REQUEST_BYTES (16384 + 1) /* the rest of a longer one is not needed to refuse it */
#define KEPT_S 86400 /* for so long a session that has ended is remembered, if it must be */
#define MAX_KEPT 16384
#define MAX_REFUSALS 64
#define SEEN_EVERY_S 3600 /* so often the responder is told that a device is in use */
#define SEEN_AT_ONCE 256
#define TELL_AGAIN_S 10 /* what the responder has not settled by then */
#define TELL_AT_ONCE 1000 /* of that: more might not fit into the broker's queue for the responder */
#define EVT_CLIENT_OFFLINE 28 /* 2.1 says so, not by DISCONNECT, that a durable session's connection ends */
#define WHY_NOBODY "Failed to provision device: the service is not available now"
#define NOBODY_ANSWERS "{\"errorMsg\":\"" WHY_NOBODY "\",\"status\":\"FAILURE\",\"retryAfter\":5}"
#define NOBODY_PACKED "\x83\xA8" "errorMsg\xD9\x3C" WHY_NOBODY "\xA6" "status\xA7" "FAILURE\xAA" "retryAfter\x05"
_Static_assert(sizeof(WHY_NOBODY) == 0x3C + 1, "msgpack says its length");

static mosquitto_plugin_id_t *plugin_id;
static int (*set_client_id)(struct mosquitto *, const char *); /* 2.1 and newer; NULL: the broker has none */
/* What a plugin sends to a client id leaves in the next turn of the broker's loop, and whoever connects with
 * that id until then would get it. */
static unsigned turn = 1;
static bool reloading; /* between the broker's reload and its next turn: it asks again of all whom it knows */
static size_t responders;
static time_t absent_since; /* while there is none */
static unsigned told_anew; /* the turn in which responders are told again of what they were told before */
static size_t kept;
static struct { char source[64]; enum verdict reason; unsigned count; } refusals[MAX_REFUSALS];
static size_t refusal_count;
static time_t swept, round_began;

struct message {
	const char *topic;
	const void *payload;
	size_t size;
	int qos;
};

/* --- what is said --- */

/* Send to one client id, or without one to whoever subscribes to the topic. It takes the properties. */
static void publish(const char *client_id, const char *topic, const void *payload, size_t size, int qos,
	mosquitto_property *properties)
{
	/* Not the _copy call: in 2.0 it uses another allocator. */
	void *copy = size ? mosquitto_malloc(size) : NULL;
	int error = size && !copy ? MOSQ_ERR_NOMEM : MOSQ_ERR_SUCCESS;
	if(copy) memcpy(copy, payload, size);
	if(!error) error = mosquitto_broker_publish(client_id, topic, (int)size, copy, qos, false, properties);
	if(!error) return;
	mosquitto_property_free_all(&properties);
	mosquitto_free(copy);
}

static void to_responder(const char *kind, const char *id, const void *payload, size_t size, const char *key,
	const char *value)
{
	char topic[64];
	mosquitto_property *properties = NULL;
	snprintf(topic, sizeof(topic), INTERNAL "%s/%s", kind, id);
	if(key && mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, key, value)) return;
	publish(NULL, topic, payload, size, 1, properties);
}

static const char *source_of(const struct mosquitto *client)
{
	const char *address = mosquitto_client_address(client);
	return address ? address : "";
}

/* Send a device what it has subscribed to on a topic of its own. */
static bool to_session(const struct session *session, const struct message *message)
{
	bool ours = session->who.role == ROLE_DEVICE && is_own_topic(message->topic) && !session->ended;
	int qos = ours ? session_granted(session, message->topic) : -1;
	if(qos < 0) return false;
	if(qos > message->qos) qos = message->qos;
	publish(session->client_id, message->topic, message->payload, message->size, qos, NULL);
	return true;
}

/* --- what the responder has to settle --- */

static void tell(struct session *session)
{
	session->told = turn;
	to_responder(session->who.role == ROLE_DEVICE ? "first" : "request", session->handle, session->unsettled,
		session->unsettled_size, "source", session->source);
}

static void note_unsettled(struct session *session, const void *payload, size_t size)
{
	session->unsettled = malloc(size + 1);
	if(!session->unsettled) return; /* it is asked again, and the next login is a first one again */
	if(size) memcpy(session->unsettled, payload, size);
	session->unsettled_size = size;
	tell(session);
}

static void note_first_login(struct session *session)
{
	char text[ID_CHARS + 24 + MAX_NAME_BYTES];
	const struct principal *who = &session->who;
	long long generation = who->generation;
	int size = snprintf(text, sizeof(text), "%s %lld %s", who->device_id, generation, who->name);
	note_unsettled(session, text, (size_t)size);
}

static void settle(struct session *session)
{
	free(session->unsettled);
	session->unsettled = NULL;
}

static void reply(struct session *session, const char *payload, size_t size)
{
	settle(session);
	session->since = time(NULL);
	session->replied = turn;
	int qos = session_granted(session, RESPONSE_TOPIC) ? 1 : 0; /* 1 also without subscription */
	publish(session->client_id, RESPONSE_TOPIC, payload, size, qos, NULL);
}

/* Say so when there is nobody who would answer: in msgpack to what begins like a map of it, else in JSON. */
static void reply_if_alone(struct session *session, time_t now)
{
	bool alone = !responders && (now - absent_since >= ABSENCE_S || now < absent_since);
	if(!session->unsettled || !alone) return;
	unsigned char start = session->unsettled_size ? (unsigned char)*session->unsettled : 0;
	bool packed = start >> 4 == 8 || start == 0xDE || start == 0xDF;
	const char *answer = packed ? NOBODY_PACKED : NOBODY_ANSWERS;
	reply(session, answer, strlen(answer));
}

static void tell_refusals(void)
{
	static const char *const reasons[] = {"unknown", "wrong-password", "state"};
	char count[16];
	for(size_t i = 0; i < refusal_count; i++){
		const char *reason = reasons[refusals[i].reason];
		int size = snprintf(count, sizeof(count), "%u", refusals[i].count);
		to_responder("refused", reason, count, (size_t)size, "source", refusals[i].source);
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
		refusals[i].reason = reason;
		refusals[i].count = 0;
		snprintf(refusals[i].source, sizeof(refusals[i].source), "%s", source);
		refusal_count++;
	}
	refusals[i].count++;
}

/* --- connecting --- */

/* The connection is gone or about to go. It stays known for its will, for a first login that is not recorded,
 * and so that nobody else takes over what the broker keeps of it. */
static void end_session(struct session *session)
{
	if(session->ended) return;
	session->ended = true;
	session->since = time(NULL);
	if(session->who.role == ROLE_PROVISIONING) settle(session);
	if(session->who.role == ROLE_RESPONDER){
		if(!--responders) absent_since = session->since;
		told_anew = turn + 2; /* to the others; in this turn the broker still counts on it */
	}
	session->kept = kept < MAX_KEPT && (session->durable || session->unsettled);
	kept += session->kept;
}

static void forget(struct session *session)
{
	kept -= session->kept;
	session_remove(session);
}

/* Whether a principal may connect with the client id of this session. */
static bool may_take_over(const struct session *holder, const struct principal *who, time_t now)
{
	bool same_role = holder->who.role == who->role;
	if(holder->replied == turn) return false;
	if(same_role && who->name && !strcmp(holder->who.name, who->name)) return true;
	if(holder->ended) return !holder->durable;
	/* Provisioning sessions have no name, but an id that many devices share, one after another. */
	return same_role && !who->name && !holder->unsettled && now - holder->since >= REQUEST_PATIENCE_S;
}

/* From then on the log and the access rules see the principal; no token reaches a log. */
static bool set_name(struct mosquitto *client, const struct session *session)
{
	char *principal = NULL;
	const char *name = session->who.name ? session->who.name : session->handle;
	bool named = asprintf(&principal, "%c:%s", "pdovr"[session->who.role], name) >= 0 &&
		!mosquitto_set_username(client, principal);
	free(principal);
	return named;
}

/* Begin a session, which takes what `who` points to. */
static bool let_in(struct mosquitto *client, const struct principal *who)
{
	time_t now = time(NULL);
	struct session *holder = session_by_client_id(mosquitto_client_id(client)), *session;
	bool durable = !mosquitto_client_clean_session(client);
	if(who->role == ROLE_PROVISIONING && durable) return false; /* it must not outlive its connection */
	if(holder && !may_take_over(holder, who, now)) return false;
	session = session_add(client, who);
	if(!session) return false;
	session->since = now;
	session->durable = durable;
	snprintf(session->source, sizeof(session->source), "%s", source_of(client));
	if(holder){ /* the broker ends it now, if it has not ended */
		holder->durable = false;
		end_session(holder);
	}
	if(who->role == ROLE_RESPONDER) responders++;
	if(who->first) note_first_login(session);
	return true;
}

static bool on_connect(const struct mosquitto_evt_basic_auth *connect)
{
	struct mosquitto *client = connect->client;
	const char *client_id = mosquitto_client_id(client), *username = connect->username;
	struct session *known = session_of(client);
	struct principal who = {0};
	enum verdict verdict = LET_IN;
	/* What has ended then is a durable session without connection, which gets nothing until it logs in. */
	if(reloading) return !known || known->ended || credentials_may_stay(&known->who);
	if(known){ /* of another connection that was in this place; the broker has forgotten it */
		known->durable = false;
		end_session(known);
		session_leave_client(known);
	}
	if(!client_id) return false;
	if(!strcmp(client_id, "provision") || (username && !strcmp(username, "provision"))){
		char unique[] = "provision-0123456789abcdef";
		if(set_client_id && !random_handle(strchr(unique, '0'))) return false;
		if(set_client_id && set_client_id(client, unique)) return false;
	}else{
		verdict = credentials_check(client, username, connect->password, &who);
	}
	if(verdict != LET_IN){
		note_refusal(source_of(client), verdict);
		return false;
	}
	if(!let_in(client, &who)) principal_free(&who);
	known = session_of(client);
	if(known && !set_name(client, known)) end_session(known);
	return known && !known->ended;
}

static void on_disconnect(const struct mosquitto *client)
{
	struct session *session = session_of(client);
	if(session) end_session(session);
}

/* --- messages --- */

static void tell_device(struct message message)
{
	char name[MAX_NAME_BYTES + 1], outward[TOPIC_SIZE];
	if(!topic_outward(message.topic, name, outward)) return;
	message.topic = outward;
	for(struct session *s = session_by_device_name(name); s; s = s->next_of_device) to_session(s, &message);
}

static void from_device(const struct session *session, const struct message *message)
{
	const char *topic = message->topic, *kind = NULL;
	char inward[TOPIC_SIZE];
	if(!topic_inward(session->who.name, topic, inward)) return;
	publish(NULL, inward, message->payload, message->size, message->qos, NULL);
	if(strstr(topic, "/rpc/request/") || strstr(topic, "/attributes/request/")) kind = "ask";
	else if(strstr(topic, "/rpc/response/")) kind = "told";
	if(kind) to_responder(kind, session->handle, message->payload, message->size, "topic", inward);
}

/* Bring a message or a will to whom it is for, if its topic means something else than it says. */
static void translate(const struct session *session, const struct message *message)
{
	if(session->who.role == ROLE_DEVICE && is_own_topic(message->topic)) from_device(session, message);
	else tell_device(*message);
}

static bool on_message(struct mosquitto_evt_message *event)
{
	struct session *session = session_of(event->client);
	struct message message = {event->topic, event->payload, event->payloadlen, event->qos};
	if(!session || !message.topic) return false;
	if(session->who.role == ROLE_PROVISIONING){
		if(session->unsettled) return false;
		size_t size = message.size < MAX_REQUEST_BYTES ? message.size : MAX_REQUEST_BYTES;
		note_unsettled(session, message.payload, size);
		reply_if_alone(session, time(NULL));
	}else{
		translate(session, &message);
	}
	if(is_own_topic(message.topic)) event->retain = false; /* nobody could ever read it there */
	return true; /* the original is routed to nobody but operators */
}

/* --- topics --- */

static bool may_write(const struct session *session, const struct mosquitto_evt_acl_check *check)
{
	const struct principal *who = &session->who;
	struct message message = {check->topic, check->payload, check->payloadlen, check->qos};
	if(!may(who, PUBLISH, check->topic)) return false;
	if(who->role == ROLE_PROVISIONING) return !check->retain && !session->ended;
	if(!session->ended) return true;
	/* A will: the broker asks about it behind the end of the connection, and sends it without a word. */
	if(!credentials_may_stay(who)) return false;
	translate(session, &message);
	return !(who->role == ROLE_DEVICE && is_own_topic(check->topic));
}

static bool may_listen(struct session *session, const struct mosquitto_evt_acl_check *check)
{
	const struct principal *who = &session->who;
	if(!may(who, SUBSCRIBE, check->topic)) return false;
	bool ours = who->role == ROLE_PROVISIONING || (who->role == ROLE_DEVICE && is_own_topic(check->topic));
	if(!ours) return true;
	if(!session_subscribe(session, check->topic, check->qos)) return false;
	if(who->rotation_due && !strncmp(check->topic, CALLS, strlen(CALLS))){
		to_responder("listens", session->handle, who->name, strlen(who->name), NULL, NULL);
	}
	return true;
}

static bool on_access(const struct mosquitto_evt_acl_check *check)
{
	struct session *session = session_of(check->client);
	if(!session || !check->topic) return false;
	switch(check->access){
		case MOSQ_ACL_READ: return may(&session->who, RECEIVE, check->topic);
		case MOSQ_ACL_WRITE: return may_write(session, check);
		case MOSQ_ACL_SUBSCRIBE: return may_listen(session, check);
		case MOSQ_ACL_UNSUBSCRIBE: session_unsubscribe(session, check->topic); return true;
	}
	return false;
}

/* --- what the responder says --- */

static void kick(struct session *session)
{
	session->durable = false; /* nothing more for what the broker keeps of it, and its client id is free */
	if(!session->ended) mosquitto_kick_client_by_clientid(session->client_id, false);
}

static void kick_device(const char *id, long long below_generation)
{
	for(struct session *s = session_by_device_id(id); s; s = s->next_of_device){
		if(!below_generation || s->who.generation < below_generation) kick(s);
	}
}

/* Call a procedure of a device, and say on how many connections it is and how many of them listen. */
static void call_device(const char *id, long long number, const char *payload, size_t size)
{
	char topic[sizeof(CALLS) + 32], counts[32];
	struct message message = {topic, payload, size, 1};
	unsigned connected = 0, listening = 0;
	snprintf(topic, sizeof(topic), CALLS "/%lld", number);
	for(struct session *s = session_by_device_id(id); s; s = s->next_of_device){
		if(s->ended) continue;
		connected++;
		if(to_session(s, &message)) listening++;
		else s->who.rotation_due = true; /* what it missed is told again once it listens */
	}
	int length = snprintf(counts, sizeof(counts), "%u %u", connected, listening);
	to_responder("called", topic + sizeof(CALLS), counts, (size_t)length, NULL, NULL);
}

/* Do what one command says, a line: a verb, an id, the size of the payload behind the line, and what else
 * there is to say. Give the size of all of it; 0 if it is not understood. */
static size_t obey(const char *at, size_t left)
{
	char line[512], verb[16], id[64];
	size_t size = 0;
	int rest = 0;
	const char *end = memchr(at, '\n', left), *payload = end ? end + 1 : at + left;
	int length = snprintf(line, sizeof(line), "%.*s", (int)((end ? end : payload) - at), at);
	if(length >= (int)sizeof(line)) return 0;
	if(sscanf(line, "%15s %63s %zu %n", verb, id, &size, &rest) != 3) return 0;
	if(size > left - (size_t)(payload - at)) return 0;
	struct session *session = session_by_handle(id);
	struct message message = {line + rest, payload, size, 1};
	long long number = strtoll(line + rest, NULL, 10);
	if(!strcmp(verb, "hello")){
		told_anew = turn + 1;
	}else if(!strcmp(verb, "kick")){
		kick_device(id, number);
	}else if(!strcmp(verb, "call")){
		call_device(id, number, payload, size);
	}else if(!strcmp(verb, "recorded")){
		if(session && session->who.role == ROLE_DEVICE) settle(session);
	}else if(!strcmp(verb, "reply")){
		/* If that connection is gone nobody else may have its reply, and nothing is answered twice. */
		bool waits = session && session->who.role == ROLE_PROVISIONING && session->unsettled;
		if(waits) reply(session, payload, size);
	}else if(!strcmp(verb, "send")){
		if(session) to_session(session, &message);
	}else{
		return 0;
	}
	return (size_t)(payload - at) + size;
}

static void on_control(const struct mosquitto_evt_control *control)
{
	const struct session *session = session_of(control->client);
	const char *at = control->payload;
	size_t left = session && session->who.role == ROLE_RESPONDER ? control->payloadlen : 0, size;
	for(; left; at += size, left -= size){
		size = obey(at, left);
		if(size) continue;
		mosquitto_log_printf(MOSQ_LOG_WARNING, "mqttprov: the responder says what is not understood;"
			" update both together");
		return;
	}
}

/* --- time --- */

/* Look at all sessions. */
static void sweep(time_t now)
{
	char seen[SEEN_AT_ONCE * (ID_CHARS + 1)];
	size_t size = 0, told = 0;
	struct session *next;
	for(struct session *session = session_next(NULL); session; session = next){
		struct principal *who = &session->who;
		next = session_next(session);
		bool in_use = who->role == ROLE_DEVICE && (!session->ended || now - session->since <= 2);
		if(in_use && now - who->seen >= SEEN_EVERY_S && size < sizeof(seen)){
			memcpy(seen + size, who->device_id, ID_CHARS);
			seen[size + ID_CHARS] = ' ';
			size += ID_CHARS + 1;
			who->seen = now;
		}
		bool again = responders && session->unsettled && session->told < told_anew && told_anew <= turn;
		if(again && told++ < TELL_AT_ONCE) tell(session);
		if(session->ended){
			bool needed = session->kept && (session->durable || session->unsettled);
			if(!needed || now - session->since >= KEPT_S) forget(session);
		}else if(who->role == ROLE_PROVISIONING){
			reply_if_alone(session, now);
			if(now - session->since > SESSION_LIFE_S) kick(session);
		}
	}
	if(size) to_responder("seen", "now", seen, size, NULL, NULL);
}

static void on_tick(void)
{
	time_t now = time(NULL);
	reloading = false;
	turn++;
	if(now - round_began >= TELL_AGAIN_S || now < round_began){
		round_began = now;
		told_anew = turn;
	}
	if(now == swept && turn != told_anew) return; /* under load this is called for every turn of the loop */
	swept = now;
	tell_refusals();
	sweep(now);
}

/* --- the plugin --- */

static int on_event(int event, void *data, void *unused)
{
	(void)unused;
	switch(event){
		case MOSQ_EVT_RELOAD: reloading = true; break;
		/* AUTH for every reason: any other code closes the connection without an answer. */
		case MOSQ_EVT_BASIC_AUTH: return on_connect(data) ? MOSQ_ERR_SUCCESS : MOSQ_ERR_AUTH;
		case MOSQ_EVT_ACL_CHECK: return on_access(data) ? MOSQ_ERR_SUCCESS : MOSQ_ERR_ACL_DENIED;
		case MOSQ_EVT_MESSAGE: return on_message(data) ? MOSQ_ERR_SUCCESS : MOSQ_ERR_ACL_DENIED;
		case MOSQ_EVT_CONTROL: on_control(data); break;
		case MOSQ_EVT_TICK: on_tick(); break;
		case MOSQ_EVT_DISCONNECT:
		case EVT_CLIENT_OFFLINE: on_disconnect(((struct mosquitto_evt_disconnect *)data)->client); break;
	}
	return MOSQ_ERR_SUCCESS;
}

static const int events[] = {MOSQ_EVT_RELOAD, MOSQ_EVT_BASIC_AUTH, MOSQ_EVT_ACL_CHECK, MOSQ_EVT_MESSAGE,
	MOSQ_EVT_CONTROL, MOSQ_EVT_TICK, MOSQ_EVT_DISCONNECT, EVT_CLIENT_OFFLINE};
#define EVENTS (sizeof(events) / sizeof(*events))
#define EXPORTED __attribute__((visibility("default")))

EXPORTED int mosquitto_plugin_version(int count, const int *versions)
{
	for(int i = 0; i < count; i++) if(versions[i] == 5) return 5;
	return -1;
}

EXPORTED int mosquitto_plugin_init(mosquitto_plugin_id_t *identifier, void **unused,
	struct mosquitto_opt *options, int count)
{
	static const char *const keys[] = {"database", "pepper_file", "responder_file"};
	const char *values[3] = {NULL};
	(void)unused;
	plugin_id = identifier;
	for(int i = 0; i < count; i++){
		for(int k = 0; k < 3; k++) if(!strcmp(options[i].key, keys[k])) values[k] = options[i].value;
	}
	if(!values[0] || !values[1] || !values[2]){
		mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: plugin_opt_database, plugin_opt_pepper_file and"
			" plugin_opt_responder_file are needed");
		return MOSQ_ERR_INVAL;
	}
	if(!credentials_open(values[0], values[1], values[2])) return MOSQ_ERR_INVAL;
	*(void **)&set_client_id = dlsym(RTLD_DEFAULT, "mosquitto_set_clientid");
	if(!set_client_id){
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "mqttprov: this Mosquitto cannot tell apart devices that"
			" share a client id: those that provision as `provision` do so one after another; 2.1 serves them"
			" at once");
	}
	if(!tls_open()) return MOSQ_ERR_NOMEM;
	absent_since = time(NULL);
	for(size_t i = 0; i < EVENTS; i++){
		int result = mosquitto_callback_register(identifier, events[i], on_event, CONTROL_TOPIC, NULL);
		if(result && events[i] != EVT_CLIENT_OFFLINE) return result; /* which 2.0 does not know */
	}
	return MOSQ_ERR_SUCCESS;
}

EXPORTED int mosquitto_plugin_cleanup(void *unused, struct mosquitto_opt *options, int count)
{
	(void)unused, (void)options, (void)count;
	for(size_t i = 0; i < EVENTS; i++){
		mosquitto_callback_unregister(plugin_id, events[i], on_event, CONTROL_TOPIC);
	}
	while(session_next(NULL)) session_remove(session_next(NULL));
	tls_close();
	credentials_close();
	return MOSQ_ERR_SUCCESS;
}
