/* The gate plugin: who may connect to Mosquitto, which topics are theirs, and how provisioning requests and
 * their private replies travel between a connection and the responder. It decides by a database that it only
 * reads; every change is the responder's. Everything runs in the broker's one thread.
 *
 * gate.c         the plugin's entry, who comes in, who may what, and when a session is over
 * messages.c     how messages, requests and replies travel
 * sessions.c     who is connected: by client id and by principal
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

/* Who has a client id: a connection that was let in; for a while also one that has ended. */
struct session {
	char *client_id; /* key */
	const struct mosquitto *client;
	struct principal who;
	char *principal;               /* key, of several; as the broker shows it: `d:<name>` of a device */
	char handle[HANDLE_CHARS + 1]; /* what the responder knows it by; a new one for each connection */
	char source[64];               /* address */
	time_t since; /* its begin, its last request or reply, or its end */
	time_t told;  /* when the responder was last told of its first login */
	unsigned apart;   /* the turn in which it began, where what waited was for a session that was ended */
	unsigned sent;    /* the turn of the broker's loop in which something was last sent to its client id */
	bool durable;     /* the broker may keep its client id and messages when it ends */
	bool unsure;      /* whether it does; it is asked when the session has ended */
	bool given_up;    /* ended by the responder: it gets nothing more */
	bool ended;
	bool waits;             /* for a reply */
	bool serves;            /* a responder that takes requests */
	unsigned filter_count;
	struct filter *filters; /* on the topics that only this plugin serves */
	struct session *next;   /* of the same principal */
	UT_hash_handle hh, hh_principal;
};

struct message {
	const char *topic;
	const void *payload;
	size_t size;
	int qos;
};

/* gate.c */
/* What a plugin sends to a client id leaves in the next turn of the broker's loop, and whoever connects with
 * that id until then would get it. */
extern unsigned turn;
time_t now_s(void); /* not of the clock that somebody sets */
struct session *session_of(const struct mosquitto *client); /* that a connection has, or had until now */
void kick(struct session *session);

/* messages.c */
void to_responder(const char *kind, const char *id, const void *payload, size_t size, const char *key,
	const char *value);
void tell_first_login(struct session *session);
/* Bring a message or a will to whom it is for, if its topic means something else than it says. */
void translate(const struct session *session, const struct message *message);
bool on_message(struct mosquitto_evt_message *event);
void on_control(const struct mosquitto_evt_control *control);

/* sessions.c */
extern struct session *sessions; /* all of them, by client id: for HASH_ITER */
bool random_handle(char text[HANDLE_CHARS + 1]);
/* Let it have the client id, instead of whoever had it, with the filters of that one if it resumes its session; take
 * what `who` points to. NULL: there is no memory. */
struct session *session_add(const struct mosquitto *client, const struct principal *who, bool resumes);
void session_remove(struct session *session);
struct session *session_by_client_id(const char *client_id);
struct session *sessions_of(const char *principal); /* the first; the others by `next` */
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
bool topic_outward(const char *topic, char device[MAX_NAME_BYTES + 3], char outward[TOPIC_SIZE]);

#endif
