/* The gate plugin: who may connect to Mosquitto, which topics are theirs, and how provisioning requests and
 * their private replies travel between a connection and the responder. It decides by a database that it only
 * reads; every change is the responder's. Everything runs in the broker's one thread.
 *
 * gate.c         the plugin's entry and its callbacks
 * sessions.c     who is connected: by connection, handle, client id and device
 * credentials.c  what a CONNECT presents, against the database
 * tls.c          client certificates where none is demanded
 * topics.c       who may publish and subscribe where
 */
#ifndef MQTTPROV_GATE_H
#define MQTTPROV_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <mosquitto_broker.h> /* before mosquitto_plugin.h: 2.0.11 does not compile the other way round */
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
#define TOPIC_SIZE (UINT16_MAX + 1) /* Mosquitto would send a longer topic as a broken packet */
#define MAX_FILTERS 64 /* of one session, on the topics that only this plugin serves */

enum role { ROLE_PROVISIONING, ROLE_DEVICE, ROLE_OPERATOR, ROLE_OBSERVER, ROLE_RESPONDER, ROLES };
enum action { PUBLISH, SUBSCRIBE, RECEIVE, ACTIONS };

/* What a login stands for. What it points to belongs to whoever holds the value. */
struct principal {
	enum role role;
	char *name;
	char *patterns[2]; /* of a device's profile, to PUBLISH and to SUBSCRIBE, one per line; NULL: none */
	char device_id[ID_CHARS + 1];
	int64_t generation;
	time_t seen; /* when the database was last told that the device is in use */
	bool first; /* the first login with this generation: the responder has to record it */
	bool rotation_due; /* it is to be told so once it listens */
};

struct filter {
	struct filter *next;
	uint8_t qos;
	char text[];
};

/* One connection that was let in; for a while also one that has ended. */
struct session {
	struct mosquitto *client; /* key: the connection itself, never its client id */
	struct principal who;
	char handle[HANDLE_CHARS + 1]; /* what the responder knows it by; a new one for each connection */
	char *client_id;
	char source[64]; /* address */
	time_t since; /* its begin, its last reply or its end */
	bool durable; /* the broker may keep its client id and messages when it ends */
	bool ended;
	bool kept; /* though it has ended */
	char *unsettled; /* what the responder has not answered: a request or a first login; NULL: nothing */
	size_t unsettled_size;
	unsigned told;    /* the turn of the broker's loop in which the responder was told of that */
	unsigned replied; /* that in which it was last sent a reply */
	struct filter *filters; /* on the topics that only this plugin serves */
	struct session *next_of_device;
	UT_hash_handle hh, hh_handle, hh_client, hh_id, hh_name;
};

/* sessions.c */
bool random_handle(char text[HANDLE_CHARS + 1]);
struct session *session_add(struct mosquitto *client, const struct principal *who);
void session_leave_client(struct session *session); /* its place in memory is another connection's now */
void session_remove(struct session *session);
struct session *session_of(const struct mosquitto *client);
struct session *session_by_handle(const char *handle);
struct session *session_by_client_id(const char *client_id);
struct session *session_by_device_id(const char *id); /* that device's first; the others by next_of_device */
struct session *session_by_device_name(const char *name);
struct session *session_next(struct session *after); /* all of them; NULL begins */
bool session_subscribe(struct session *session, const char *filter, uint8_t qos);
void session_unsubscribe(struct session *session, const char *filter);
int session_granted(const struct session *session, const char *topic); /* highest QoS; -1: not subscribed */

/* credentials.c */
enum verdict { REFUSED_UNKNOWN, REFUSED_PASSWORD, REFUSED_STATE, UNAVAILABLE, LET_IN };

bool credentials_open(const char *database, const char *pepper_file, const char *responder_file);
enum verdict credentials_check(struct mosquitto *client, const char *username, const char *password,
	struct principal *who);
bool credentials_may_stay(const struct principal *who); /* asked again of whom was let in */
void credentials_close(void);
void principal_free(struct principal *who);

/* tls.c */
bool tls_open(void); /* before listeners are made */
void tls_close(void);

/* topics.c */
bool may(const struct principal *who, enum action action, const char *topic);
bool is_own_topic(const char *topic);
bool is_name(const char *name); /* whether it may become part of a topic */
/* `v1/devices/me/x` of device D is `v1/devices/D/x` for everybody else. False: there is no such topic. */
bool topic_inward(const char *name, const char *topic, char inward[TOPIC_SIZE]);
bool topic_outward(const char *topic, char name[MAX_NAME_BYTES + 1], char outward[TOPIC_SIZE]);

#endif
