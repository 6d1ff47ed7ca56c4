/* The plugin's entry, and who comes in, who may what, and when a session is over. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gate.h"

#define SESSION_LIFE_S 60 /* of a provisioning session that asks nothing, as with ThingsBoard */
#define ANSWER_S 10 /* for so long it waits for a reply: one that the broker has dropped is never answered */
#define REQUEST_PATIENCE_S 5 /* for so long nobody else gets the client id of a provisioning session */
#define KEPT_S 86400 /* for so long a session that has ended is remembered, if it must be */
#define MAX_KEPT 16384
#define MAX_REFUSALS 50 /* of each reason, that are told one by one in a second; the others are told as a number */
#define SEEN_EVERY_S 3600 /* so often the responder is told that a device is in use */
#define TELL_AGAIN_S 5 /* a first login that is not recorded by then */
#define TELL_AT_ONCE 1000 /* logins: more might not fit into the broker's queue for the responder */
#define EVT_CLIENT_OFFLINE 28 /* 2.1 says so, not by DISCONNECT, that a durable session's connection ends */
#define TAKES_REQUESTS "$share/prov/" INTERNAL "request/+"

static mosquitto_plugin_id_t *plugin_id;
static int (*set_client_id)(struct mosquitto *, const char *); /* 2.1 and newer; NULL: the broker has none */
unsigned turn = 1;
static bool reloading; /* between the broker's reload and its next turn: it asks again of all whom it knows */
static bool responder_lost; /* in this turn, and perhaps requests with it */
static bool responder_came; /* in this turn; it is told at once what nobody has recorded */
static const struct mosquitto *displaced; /* by the last CONNECT, which has the same client id and principal */
static unsigned refusals[UNAVAILABLE]; /* in this second, of each reason; what is unavailable records nothing */
static const char *const reasons[UNAVAILABLE] = {"unknown", "wrong-password", "state"};

time_t now_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* The session that a connection has, or had until now. */
struct session *session_of(const struct mosquitto *client)
{
	const char *client_id = mosquitto_client_id(client);
	struct session *session = client_id ? session_by_client_id(client_id) : NULL;
	return session && (session->client == client || displaced == client) ? session : NULL;
}

void kick(struct session *session)
{
	session->given_up = true; /* nothing more for what the broker keeps of it, and its client id is free */
	if(!session->ended) mosquitto_kick_client_by_clientid(session->client_id, false);
}

/* --- refused logins --- */

static const char *source_of(const struct mosquitto *client)
{
	const char *address = mosquitto_client_address(client);
	return address ? address : "";
}

static void tell_refusal(const struct mosquitto *client, enum verdict reason)
{
	if(reason == UNAVAILABLE || refusals[reason]++ >= MAX_REFUSALS) return;
	to_responder("refused", reasons[reason], "1", 1, "source", source_of(client));
}

static void tell_further_refusals(void)
{
	char number[16];
	for(int reason = 0; reason < UNAVAILABLE; reason++){
		if(refusals[reason] > MAX_REFUSALS){
			int size = snprintf(number, sizeof(number), "%u", refusals[reason] - MAX_REFUSALS);
			to_responder("refused", reasons[reason], number, (size_t)size, NULL, NULL);
		}
		refusals[reason] = 0;
	}
}

/* --- connecting --- */

/* Whether there is a responder that takes requests. */
static bool is_served(void)
{
	const struct session *responder = sessions_of("r:responder");
	while(responder && !responder->serves) responder = responder->next;
	return responder;
}

/* The connection is gone or about to go. The session stays known for its will, for a first login that is not
 * recorded, and so that nobody else takes over what the broker keeps of it. */
static void end_session(struct session *session)
{
	if(session->ended) return;
	responder_lost |= session->serves;
	session->ended = true;
	session->serves = session->waits = false;
	session->since = now_s();
}

/* Whether the broker keeps a session that has ended. With MQTT 5 that hangs on its expiry, of which no plugin is told;
 * but a kick finds what is kept, and does nothing to it. */
static bool is_kept(struct session *session)
{
	if(session->unsure) session->durable = !mosquitto_kick_client_by_clientid(session->client_id, true);
	session->unsure = false;
	return session->durable;
}

/* Whether a principal may connect with the client id of this session. */
static bool may_take_over(struct session *holder, const struct principal *who)
{
	bool same_role = holder->who.role == who->role;
	if(same_role && who->name && !strcmp(holder->who.name, who->name)) return true;
	if(holder->sent == turn) return false;
	if(holder->ended) return !holder->who.first && (holder->given_up || !is_kept(holder));
	/* Provisioning sessions have no name, but an id that many devices share, one after another. */
	return same_role && !who->name && !holder->waits && now_s() - holder->since >= REQUEST_PATIENCE_S;
}

/* Begin a session, which takes what `who` points to. */
static bool let_in(struct mosquitto *client, struct principal *who)
{
	struct session *holder = session_by_client_id(mosquitto_client_id(client)), *session = NULL;
	bool durable = !mosquitto_client_clean_session(client);
	bool may = !holder || may_take_over(holder, who);
	/* It must not outlive its connection; and without anybody who answers its device shall come again. */
	if(who->role == ROLE_PROVISIONING && (durable || !is_served())) may = false;
	/* The broker goes on with what was subscribed to, and so does the gate. */
	bool resumes = may && holder && durable && !strcmp(holder->who.device_id, who->device_id) &&
		(holder->ended ? is_kept(holder) : holder->durable || holder->unsure);
	bool apart = may && holder && durable && holder->given_up;
	if(may && holder){ /* the broker ends it now, if it has not ended */
		displaced = holder->ended ? NULL : holder->client;
		end_session(holder);
	}
	if(may) session = session_add(client, who, resumes);
	if(!session){
		principal_free(who);
		return false;
	}
	session->since = now_s();
	session->durable = durable;
	session->apart = apart ? turn : 0;
	/* What is kept of a provisioning session is nobody's: its replies are for no later connection. */
	session->unsure = session->who.role != ROLE_PROVISIONING && mosquitto_client_protocol_version(client) == 5;
	snprintf(session->source, sizeof(session->source), "%s", source_of(client));
	/* From then on the log and the access rules see the principal; no token reaches a log. */
	if(mosquitto_set_username(client, session->principal)){
		session_remove(session);
		return false;
	}
	if(who->first) tell_first_login(session);
	return true;
}

/* Give a provisioning session an id of its own, if the broker can: many devices share one. */
static bool make_client_id(struct mosquitto *client)
{
	char unique[] = "provision-0123456789abcdef";
	if(!set_client_id) return true;
	return random_handle(strchr(unique, '0')) && !set_client_id(client, unique);
}

static bool asks_to_provision(const char *client_id, const char *username)
{
	return !strcmp(client_id, "provision") || (username && !strcmp(username, "provision"));
}

static bool on_connect(const struct mosquitto_evt_basic_auth *connect)
{
	struct mosquitto *client = connect->client;
	const char *client_id = mosquitto_client_id(client), *username = connect->username;
	struct principal who = {0};
	enum verdict verdict = LET_IN;
	displaced = NULL;
	if(!client_id) return false;
	if(reloading){
		/* What has ended then is a durable session without connection, which gets nothing until it logs in. */
		const struct session *known = session_by_client_id(client_id);
		return !known || (known->client == client && (known->ended || credentials_may_stay(&known->who)));
	}
	if(!asks_to_provision(client_id, username)){
		verdict = credentials_check(client, username, connect->password, &who);
	}else if(!make_client_id(client)){
		return false;
	}
	if(verdict == LET_IN) return let_in(client, &who);
	tell_refusal(client, verdict);
	return false;
}

static void on_disconnect(const struct mosquitto *client)
{
	struct session *session = session_of(client);
	if(session && session->client == client) end_session(session);
}

/* --- topics --- */

static bool may_write(const struct session *session, const struct mosquitto_evt_acl_check *check)
{
	const struct principal *who = &session->who;
	struct message message = {check->topic, check->payload, check->payloadlen, check->qos};
	bool lives = session->client == check->client && !session->ended;
	if(!may(who, PUBLISH, check->topic)) return false;
	if(who->role == ROLE_PROVISIONING) return lives && !check->retain;
	if(lives) return true;
	/* A will: the broker asks about it behind the end of the connection, and sends it without a word. */
	if(!credentials_may_stay(who)) return false;
	translate(session, &message);
	return !(who->role == ROLE_DEVICE && is_own_topic(check->topic));
}

static bool may_listen(struct session *session, const struct mosquitto_evt_acl_check *check)
{
	const struct principal *who = &session->who;
	if(!may(who, SUBSCRIBE, check->topic)) return false;
	if(session->ended) return true; /* is asked again by a kick; it has what it subscribed to */
	if(who->role == ROLE_RESPONDER && !strcmp(check->topic, TAKES_REQUESTS)) session->serves = responder_came = true;
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
		case MOSQ_ACL_READ:
			return !session->given_up && session->apart != turn && may(&session->who, RECEIVE, check->topic);
		case MOSQ_ACL_WRITE: return may_write(session, check);
		case MOSQ_ACL_SUBSCRIBE: return may_listen(session, check);
		case MOSQ_ACL_UNSUBSCRIBE:
			session_unsubscribe(session, check->topic);
			/* What it has taken it still answers. */
			if(!strcmp(check->topic, TAKES_REQUESTS)) session->serves = false;
			return true;
	}
	return false;
}

/* --- time --- */

/* Tell the responder what it has to record of a device. */
static bool tell_login(struct session *session)
{
	struct principal *who = &session->who;
	bool in_use = !session->ended || now_s() - session->since <= 2;
	bool first = who->first && (responder_came || now_s() - session->told >= TELL_AGAIN_S);
	bool seen = in_use && time(NULL) - who->seen >= SEEN_EVERY_S;
	if(first) tell_first_login(session);
	if(seen){
		who->seen = time(NULL);
		to_responder("seen", who->device_id, NULL, 0, NULL, NULL);
	}
	return first || seen;
}

/* Look at all sessions. */
static void sweep(void)
{
	bool served = is_served(), lost = responder_lost || !served;
	size_t told = 0, kept = 0;
	struct session *session, *next;
	HASH_ITER(hh, sessions, session, next){
		const struct principal *who = &session->who;
		time_t age = now_s() - session->since;
		if(who->role == ROLE_DEVICE && served && told < TELL_AT_ONCE) told += tell_login(session);
		if(session->ended){
			bool needed = (is_kept(session) || who->first) && age < KEPT_S && kept++ < MAX_KEPT;
			if(!needed) session_remove(session);
		}else if(who->role == ROLE_PROVISIONING){
			/* A lost request is not told again: with its session ended its device asks anew. */
			bool over = session->waits ? lost || age >= ANSWER_S : age >= SESSION_LIFE_S;
			if(over) kick(session);
		}
	}
	responder_lost = responder_came = false;
}

static void on_tick(struct mosquitto_evt_tick *tick)
{
	static time_t swept;
	reloading = false;
	turn++;
	/* Under load this is called for every turn of the loop. */
	if(swept == now_s() && !responder_lost && !responder_came) return;
	swept = now_s();
	tick->next_ns = 1; /* for 2.1, where these are ms: what is told here leaves when the broker wakes up again */
	tell_further_refusals();
	sweep();
}

/* --- the plugin --- */

static int on_event(int event, void *data, void *unused)
{
	(void)unused;
	switch(event){
		/* AUTH for every reason: any other code closes the connection without an answer. */
		case MOSQ_EVT_BASIC_AUTH: return on_connect(data) ? MOSQ_ERR_SUCCESS : MOSQ_ERR_AUTH;
		case MOSQ_EVT_ACL_CHECK: return on_access(data) ? MOSQ_ERR_SUCCESS : MOSQ_ERR_ACL_DENIED;
		case MOSQ_EVT_MESSAGE: return on_message(data) ? MOSQ_ERR_SUCCESS : MOSQ_ERR_ACL_DENIED;
		case MOSQ_EVT_CONTROL: on_control(data); break;
		case MOSQ_EVT_TICK: on_tick(data); break;
		case MOSQ_EVT_RELOAD: reloading = true; break;
		case MOSQ_EVT_DISCONNECT:
		case EVT_CLIENT_OFFLINE: on_disconnect(((struct mosquitto_evt_disconnect *)data)->client); break;
	}
	return MOSQ_ERR_SUCCESS;
}

static const int events[] = {MOSQ_EVT_RELOAD, MOSQ_EVT_BASIC_AUTH, MOSQ_EVT_ACL_CHECK, MOSQ_EVT_MESSAGE,
	MOSQ_EVT_CONTROL, MOSQ_EVT_TICK, MOSQ_EVT_DISCONNECT, EVT_CLIENT_OFFLINE};
#define EVENTS (sizeof(events) / sizeof(*events))

#define EXPORTED __attribute__((visibility("default")))

static const char *value_of(const char *key, const struct mosquitto_opt *options, int count)
{
	for(int i = 0; i < count; i++) if(!strcmp(options[i].key, key)) return options[i].value;
	mosquitto_log_printf(MOSQ_LOG_ERR, "mqttprov: plugin_opt_%s is needed", key);
	return NULL;
}

EXPORTED int mosquitto_plugin_version(int count, const int *versions)
{
	for(int i = 0; i < count; i++) if(versions[i] == 5) return 5;
	return -1;
}

EXPORTED int mosquitto_plugin_init(mosquitto_plugin_id_t *identifier, void **unused,
	struct mosquitto_opt *options, int count)
{
	const char *database = value_of("database", options, count);
	const char *pepper_file = value_of("pepper_file", options, count);
	const char *responder_file = value_of("responder_file", options, count);
	(void)unused;
	plugin_id = identifier;
	if(!database || !pepper_file || !responder_file) return MOSQ_ERR_INVAL;
	if(!credentials_open(database, pepper_file, responder_file)) return MOSQ_ERR_INVAL;
	*(void **)&set_client_id = dlsym(RTLD_DEFAULT, "mosquitto_set_clientid");
	if(!set_client_id){
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "mqttprov: this Mosquitto cannot tell apart devices that"
			" share a client id: those that provision as `provision` do so one after another; 2.1 serves them"
			" at once");
	}
	if(!tls_open()) return MOSQ_ERR_NOMEM;
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
	while(sessions) session_remove(sessions);
	tls_close();
	credentials_close();
	return MOSQ_ERR_SUCCESS;
}
