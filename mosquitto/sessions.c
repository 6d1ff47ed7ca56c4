/* Who is connected: by connection, handle, client id and device. No rules and no broker calls. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "gate.h"

/* The first session of a device stands for all of it in the last two. */
static struct session *sessions, *by_handle, *by_client, *by_id, *by_name;

static void device_add(struct session *first)
{
	HASH_ADD(hh_id, by_id, who.device_id, ID_CHARS, first);
	HASH_ADD_KEYPTR(hh_name, by_name, first->who.name, strlen(first->who.name), first);
}

static void device_delete(struct session *first)
{
	HASH_DELETE(hh_id, by_id, first);
	HASH_DELETE(hh_name, by_name, first);
}

static void session_join_device(struct session *session)
{
	session->next_of_device = session_by_device_id(session->who.device_id);
	if(session->next_of_device) device_delete(session->next_of_device);
	device_add(session);
}

static void session_leave_device(struct session *session)
{
	struct session *first = session_by_device_id(session->who.device_id), **place = &first;
	bool was_first = first == session;
	while(*place != session) place = &(*place)->next_of_device;
	if(was_first) device_delete(session);
	*place = session->next_of_device;
	if(was_first && first) device_add(first);
}

bool random_handle(char text[HANDLE_CHARS + 1])
{
	unsigned long long number = 0;
	bool is_random = RAND_bytes((unsigned char *)&number, sizeof(number)) == 1;
	snprintf(text, HANDLE_CHARS + 1, "%016llx", number);
	return is_random;
}

struct session *session_add(struct mosquitto *client, const struct principal *who)
{
	struct session *session = calloc(1, sizeof(*session));
	if(!session) return NULL;
	session->client_id = strdup(mosquitto_client_id(client));
	if(!session->client_id || !random_handle(session->handle)){
		free(session->client_id);
		free(session);
		return NULL;
	}
	session->client = client;
	session->who = *who;
	struct session *displaced = session_by_client_id(session->client_id);
	if(displaced) HASH_DELETE(hh_client, by_client, displaced);
	HASH_ADD_PTR(sessions, client, session);
	HASH_ADD(hh_handle, by_handle, handle, HANDLE_CHARS, session);
	HASH_ADD_KEYPTR(hh_client, by_client, session->client_id, strlen(session->client_id), session);
	if(who->role == ROLE_DEVICE) session_join_device(session);
	return session;
}

void session_leave_client(struct session *session)
{
	HASH_DEL(sessions, session);
	session->client = (struct mosquitto *)session; /* no connection's, and nobody else's */
	HASH_ADD_PTR(sessions, client, session);
}

void session_remove(struct session *session)
{
	if(session->who.role == ROLE_DEVICE) session_leave_device(session);
	HASH_DEL(sessions, session);
	HASH_DELETE(hh_handle, by_handle, session);
	if(session_by_client_id(session->client_id) == session) HASH_DELETE(hh_client, by_client, session);
	while(session->filters) session_unsubscribe(session, session->filters->text);
	free(session->client_id);
	free(session->unsettled);
	principal_free(&session->who);
	free(session);
}

struct session *session_of(const struct mosquitto *client)
{
	struct session *found = NULL;
	HASH_FIND_PTR(sessions, &client, found);
	return found;
}

struct session *session_by_handle(const char *handle)
{
	struct session *found = NULL;
	if(strlen(handle) == HANDLE_CHARS) HASH_FIND(hh_handle, by_handle, handle, HANDLE_CHARS, found);
	return found;
}

struct session *session_by_client_id(const char *client_id)
{
	struct session *found = NULL;
	HASH_FIND(hh_client, by_client, client_id, strlen(client_id), found);
	return found;
}

struct session *session_by_device_id(const char *id)
{
	struct session *found = NULL;
	if(strlen(id) == ID_CHARS) HASH_FIND(hh_id, by_id, id, ID_CHARS, found);
	return found;
}

struct session *session_by_device_name(const char *name)
{
	struct session *found = NULL;
	HASH_FIND(hh_name, by_name, name, strlen(name), found);
	return found;
}

struct session *session_next(struct session *after)
{
	return after ? after->hh.next : sessions;
}

/* Where its filter of this text stands, or a new one would. */
static struct filter **filter_place(struct session *session, const char *text, size_t *before)
{
	struct filter **place = &session->filters;
	for(*before = 0; *place && strcmp((*place)->text, text); (*before)++) place = &(*place)->next;
	return place;
}

bool session_subscribe(struct session *session, const char *text, uint8_t qos)
{
	size_t before, size = strlen(text) + 1;
	struct filter **place = filter_place(session, text, &before);
	if(!*place && before < MAX_FILTERS && (*place = calloc(1, sizeof(**place) + size))){
		memcpy((*place)->text, text, size);
	}
	if(*place) (*place)->qos = qos;
	return *place;
}

void session_unsubscribe(struct session *session, const char *text)
{
	size_t before;
	struct filter **place = filter_place(session, text, &before), *filter = *place;
	if(filter) *place = filter->next;
	free(filter);
}

int session_granted(const struct session *session, const char *topic)
{
	int granted = -1;
	for(const struct filter *filter = session->filters; filter; filter = filter->next){
		bool matches = false;
		if(filter->qos > granted && !mosquitto_topic_matches_sub(filter->text, topic, &matches) && matches){
			granted = filter->qos;
		}
	}
	return granted;
}
