/* The gate plugin: who may connect to Mosquitto, which topics are theirs, and how provisioning requests and their private
 * replies travel between a connection and the responder. It decides by a database that it only reads; every change is the
 * responder's. Everything runs in the broker's one thread.
 *
 * gate.c         the plugin's entry and its callbacks
 * sessions.c     who is connected: by connection, handle, device and client id
 * credentials.c  what a CONNECT presents, against the database
 * topics.c       who may publish and subscribe where
 */
#ifndef MQTTPROV_GATE_H
#define MQTTPROV_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <mosquitto_broker.h> /* before mosquitto_plugin.h: 2.0.11 and 2.0.12 do not compile the other way round */
#include <mosquitto.h>
#include <mosquitto_plugin.h>
#include <mqtt_protocol.h>
#include <uthash.h>

#define REQUEST_TOPIC "/provision/request"
#define RESPONSE_TOPIC "/provision/response"
#define CONTROL_TOPIC "$CONTROL/provision/v1"
#define INTERNAL "_prov/" /* not `$`: a shared subscription never matches such topics */
#define ME "v1/devices/me/"
#define CALLS ME "rpc/request"
#define GATEWAY "v1/gateway/"
#define DEVICES "v1/devices/"

#define HANDLE_CHARS 16
#define ID_CHARS 32
#define MAX_NAME_BYTES 1020 /* 255 characters of a device or an operator */
#define MAX_FILTERS 64 /* of one device session, on its own topics */
#define SEEN_EVERY_S 3600 /* so often the responder is told that a device is in use */
#define SCHEMA_VERSION 6 /* the oldest schema of the database that this plugin reads */

enum role { ROLE_PROVISIONING, ROLE_DEVICE, ROLE_OPERATOR, ROLE_OBSERVER, ROLE_RESPONDER };

/* What a login stands for. `name` and patterns belong to whoever holds the value. */
struct principal {
	enum role role;
	int64_t generation;
	bool first; /* the first login with this generation: the responder has to record it */
	bool stale; /* not marked as in use for an hour: the responder is to mark it */
	bool rotation_due; /* it is to be told so once it listens */
	char device_id[ID_CHARS + 1];
	char *name;
	char *publish_patterns;   /* one per line, `%d` for the name; NULL: none */
	char *subscribe_patterns;
};

struct filter {
	char *text;
	uint8_t qos;
};

struct device;

/* One connection that was let in. */
struct session {
	struct mosquitto *client; /* key: the connection itself, never its client id */
	struct principal who;
	char handle[HANDLE_CHARS + 1]; /* what the responder knows it by; a new one for each connection */
	char *client_id;
	time_t since;
	char *request;     /* that the responder has not answered; NULL: none */
	size_t request_size;
	unsigned told;     /* the round in which the responder was told of it */
	int response_qos;  /* of its subscription to the response topic; -1: none */
	struct filter *filters; /* of a device, on its own topics */
	size_t filter_count;
	struct device *device;
	struct session *next_of_device;
	UT_hash_handle hh, hh_handle, hh_client;
};

/* A device with at least one connection. */
struct device {
	char id[ID_CHARS + 1];
	char *name;
	struct session *first;
	UT_hash_handle hh, hh_name;
};

/* sessions.c */
struct session *session_add(struct mosquitto *client, const struct principal *who);
void session_remove(struct session *session);
struct session *session_of(const struct mosquitto *client);
struct session *session_by_handle(const char *handle);
struct session *session_by_client_id(const char *client_id);
struct session *session_next(struct session *after); /* all of them; NULL begins */
struct device *device_by_id(const char *id);
struct device *device_by_name(const char *name);
bool session_subscribe(struct session *session, const char *filter, uint8_t qos);
void session_unsubscribe(struct session *session, const char *filter);
int session_granted(const struct session *session, const char *topic); /* highest QoS; -1: not subscribed */

/* credentials.c */
enum verdict { LET_IN, REFUSED_UNKNOWN, REFUSED_PASSWORD, REFUSED_STATE, UNAVAILABLE };

struct attempt {
	const char *client_id;
	const char *username;
	const char *password;
	const char *fingerprint; /* SHA-256 of the client certificate, hex */
};

bool credentials_open(const char *database, const char *pepper_file, const char *responder_file);
enum verdict credentials_check(const struct attempt *attempt, struct principal *who);
bool credentials_may_stay(const struct principal *who); /* asked again when the broker reloads */
void credentials_close(void);
void principal_free(struct principal *who);
bool random_hex(char *text, size_t digits);
void hex(char *text, const unsigned char *bytes, size_t count);

/* topics.c */
bool may_publish(const struct principal *who, const char *topic);
bool may_subscribe(const struct principal *who, const char *filter);
bool may_receive(const struct principal *who, const char *topic);
bool is_own_topic(const char *topic);
bool is_name(const char *name); /* whether it may become part of a topic */
/* `v1/devices/me/x` of device D is `v1/devices/D/x` for everybody else. NULL: there is no such topic, or no memory. */
char *topic_inward(const char *name, const char *topic);
char *topic_outward(const char *topic, char name[MAX_NAME_BYTES + 1]);

#endif
