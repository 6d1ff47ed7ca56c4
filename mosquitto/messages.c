/* How messages travel: a device's to others and theirs to it, requests to the responder and its replies back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gate.h"

#define MAX_REQUEST_BYTES (16384 + 1) /* the rest of a longer one is not needed to refuse it */

/* --- what is said --- */

/* Send to one client id, or without one to whoever subscribes to the topic. It takes the properties. */
static void publish(const char *client_id, const struct message *message, mosquitto_property *properties)
{
	/* Not the _copy call: in 2.0 it uses another allocator. */
	size_t size = message->size;
	void *copy = size ? mosquitto_malloc(size) : NULL;
	int qos = message->qos, error = size && !copy ? MOSQ_ERR_NOMEM : MOSQ_ERR_SUCCESS;
	if(copy) memcpy(copy, message->payload, size);
	if(!error) error = mosquitto_broker_publish(client_id, message->topic, (int)size, copy, qos, false, properties);
	if(!error) return;
	mosquitto_property_free_all(&properties);
	mosquitto_free(copy);
}

void to_responder(const char *kind, const char *id, const void *payload, size_t size, const char *key,
	const char *value)
{
	char topic[64];
	struct message message = {topic, payload, size, 1};
	mosquitto_property *properties = NULL;
	snprintf(topic, sizeof(topic), INTERNAL "%s/%s", kind, id);
	if(key && mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, key, value)) return;
	publish(NULL, &message, properties);
}

/* Send a device what it has subscribed to on a topic of its own. */
static bool to_session(struct session *session, const struct message *message)
{
	struct message sent = *message;
	bool ours = session->who.role == ROLE_DEVICE && is_own_topic(message->topic) && !session->ended;
	int granted = ours ? session_granted(session, message->topic) : -1;
	if(granted < 0) return false;
	if(granted < sent.qos) sent.qos = granted;
	session->sent = turn;
	publish(session->client_id, &sent, NULL);
	return true;
}

void tell_first_login(struct session *session)
{
	char text[ID_CHARS + 24 + MAX_NAME_BYTES];
	const struct principal *who = &session->who;
	long long generation = who->generation;
	int size = snprintf(text, sizeof(text), "%s %lld %s", who->device_id, generation, who->name);
	session->told = now_s();
	to_responder("first", session->handle, text, (size_t)size, "source", session->source);
}

/* --- messages --- */

/* Bring what is for a device to its sessions, or to the one that is meant. */
static void tell_device(const struct message *message, const char *handle)
{
	char device[MAX_NAME_BYTES + 3], outward[TOPIC_SIZE];
	struct message turned = {outward, message->payload, message->size, message->qos};
	if(!topic_outward(message->topic, device, outward)) return;
	for(struct session *s = sessions_of(device); s; s = s->next){
		if(!handle || !strcmp(s->handle, handle)) to_session(s, &turned);
	}
}

static void from_device(const struct session *session, const struct message *message)
{
	const char *topic = message->topic, *kind = NULL;
	char inward[TOPIC_SIZE];
	struct message turned = {inward, message->payload, message->size, message->qos};
	if(!topic_inward(session->who.name, topic, inward)) return;
	publish(NULL, &turned, NULL);
	if(strstr(topic, "/rpc/request/") || strstr(topic, "/attributes/request/")) kind = "ask";
	else if(strstr(topic, "/rpc/response/")) kind = "told";
	if(kind) to_responder(kind, session->handle, message->payload, message->size, "topic", inward);
}

/* Bring a message or a will to whom it is for, if its topic means something else than it says. */
void translate(const struct session *session, const struct message *message)
{
	if(session->who.role == ROLE_DEVICE && is_own_topic(message->topic)) from_device(session, message);
	else tell_device(message, NULL);
}

bool on_message(struct mosquitto_evt_message *event)
{
	struct session *session = session_of(event->client);
	struct message message = {event->topic, event->payload, event->payloadlen, event->qos};
	if(!session || !message.topic || session->waits) return false;
	if(session->who.role == ROLE_PROVISIONING){
		size_t size = message.size < MAX_REQUEST_BYTES ? message.size : MAX_REQUEST_BYTES;
		session->waits = true;
		session->since = now_s();
		to_responder("request", session->handle, message.payload, size, "source", session->source);
	}else{
		translate(session, &message);
	}
	if(is_own_topic(message.topic)){
		event->retain = false; /* nobody could ever read it there */
		/* Nobody gets the original, but the broker would ask us so for each of a fleet that listens there. In place,
		 * as 2.0.11 and 2.1 disagree on who frees a topic. */
		strcpy(event->topic, GATEWAY);
	}
	return true; /* the original is routed to nobody but operators */
}

static void reply(struct session *session, const char *payload, size_t size)
{
	/* QoS 1 also without subscription. */
	struct message message = {RESPONSE_TOPIC, payload, size, session_granted(session, RESPONSE_TOPIC) ? 1 : 0};
	session->waits = false;
	session->since = now_s();
	session->sent = turn;
	publish(session->client_id, &message, NULL);
}

/* --- what the responder says --- */

/* Call a procedure of a device, and say on how many connections it is and how many of them listen. */
static void call_device(const char *device, const char *number, const char *payload, size_t size)
{
	char topic[sizeof(CALLS) + 32], counts[32];
	struct message message = {topic, payload, size, 1};
	unsigned connected = 0, listening = 0;
	snprintf(topic, sizeof(topic), CALLS "/%s", number);
	for(struct session *s = sessions_of(device); s; s = s->next){
		if(s->ended) continue;
		connected++;
		if(to_session(s, &message)) listening++;
		else s->who.rotation_due = true; /* what it missed is told again once it listens */
	}
	int length = snprintf(counts, sizeof(counts), "%u %u", connected, listening);
	to_responder("called", number, counts, (size_t)length, NULL, NULL);
}

/* Do what one command says, a line: a verb, a number or handle, the size of the payload behind the line, and the
 * principal or topic that it is about. Give the size of all of it; 0 if it is not understood. */
static size_t obey(const char *at, size_t left)
{
	char line[2048], verb[16], number[32];
	size_t size = 0;
	int rest = 0;
	const char *end = memchr(at, '\n', left), *payload = end ? end + 1 : at + left;
	int length = snprintf(line, sizeof(line), "%.*s", (int)((end ? end : payload) - at), at);
	if(length >= (int)sizeof(line)) return 0;
	if(sscanf(line, "%15s %31s %zu %n", verb, number, &size, &rest) != 3) return 0;
	if(size > left - (size_t)(payload - at)) return 0;
	const char *subject = line + rest;
	struct message message = {subject, payload, size, 1};
	struct session *first = sessions_of(subject);
	long long generation = strtoll(number, NULL, 10);
	if(!strcmp(verb, "kick")){
		for(struct session *s = first; s; s = s->next) if(!generation || s->who.generation < generation) kick(s);
	}else if(!strcmp(verb, "recorded")){
		for(struct session *s = first; s; s = s->next) if(s->who.generation == generation) s->who.first = false;
	}else if(!strcmp(verb, "call")){
		call_device(subject, number, payload, size);
	}else if(!strcmp(verb, "send")){
		tell_device(&message, number);
	}else if(!strcmp(verb, "reply")){
		/* If that connection is gone nobody else may have its reply, and nothing is answered twice. */
		if(first && first->waits) reply(first, payload, size);
	}else{
		return 0;
	}
	return (size_t)(payload - at) + size;
}

void on_control(const struct mosquitto_evt_control *control)
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
