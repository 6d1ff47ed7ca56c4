/* Who is connected: by connection, handle, device and client id. No rules and no broker calls. */
#include <stdlib.h>
#include <string.h>

#include "gate.h"

static struct session *sessions, *by_handle, *by_client;
static struct device *devices, *devices_by_name;

static void device_release(struct session *session)
{
	struct device *device = session->device;
	struct session **place = &device->first;
	while(*place != session) place = &(*place)->next_of_device;
	*place = session->next_of_device;
	if(!device->first){
		HASH_DEL(devices, device);
		HASH_DELETE(hh_name, devices_by_name, device);
		free(device->name);
		free(device);
	}
}

static bool device_join(struct session *session)
{
	struct device *device = device_by_id(session->who.device_id);
	if(!device){
		device = calloc(1, sizeof(*device));
		if(!device || !(device->name = strdup(session->who.name))){
			free(device);
			return false;
		}
		memcpy(device->id, session->who.device_id, sizeof(device->id));
		HASH_ADD_STR(devices, id, device);
		HASH_ADD_KEYPTR(hh_name, devices_by_name, device->name, strlen(device->name), device);
	}
	session->device = device;
	session->next_of_device = device->first;
	device->first = session;
	return true;
}

struct session *session_add(struct mosquitto *client, const struct principal *who)
{
	const char *client_id = mosquitto_client_id(client);
	struct session *session = calloc(1, sizeof(*session));
	if(!session) return NULL;
	session->client = client;
	session->client_id = strdup(client_id ? client_id : "");
	session->since = time(NULL);
	session->response_qos = -1;
	session->who = *who;
	if(!session->client_id || !random_hex(session->handle, HANDLE_CHARS) ||
			(who->role == ROLE_DEVICE && !device_join(session))){
		free(session->client_id);
		free(session);
		return NULL;
	}
	HASH_ADD_PTR(sessions, client, session);
	HASH_ADD(hh_handle, by_handle, handle, HANDLE_CHARS, session);
	struct session *displaced = session_by_client_id(session->client_id);
	if(displaced) HASH_DELETE(hh_client, by_client, displaced);
	HASH_ADD_KEYPTR(hh_client, by_client, session->client_id, strlen(session->client_id), session);
	return session;
}

void session_remove(struct session *session)
{
	HASH_DEL(sessions, session);
	HASH_DELETE(hh_handle, by_handle, session);
	if(session_by_client_id(session->client_id) == session) HASH_DELETE(hh_client, by_client, session);
	if(session->device) device_release(session);
	for(size_t i = 0; i < session->filter_count; i++) free(session->filters[i].text);
	free(session->filters);
	free(session->client_id);
	free(session->request);
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

struct session *session_next(struct session *after)
{
	return after ? after->hh.next : sessions;
}

struct device *device_by_id(const char *id)
{
	struct device *found = NULL;
	HASH_FIND_STR(devices, id, found);
	return found;
}

struct device *device_by_name(const char *name)
{
	struct device *found = NULL;
	HASH_FIND(hh_name, devices_by_name, name, strlen(name), found);
	return found;
}

bool session_subscribe(struct session *session, const char *filter, uint8_t qos)
{
	for(size_t i = 0; i < session->filter_count; i++){
		if(!strcmp(session->filters[i].text, filter)){
			session->filters[i].qos = qos;
			return true;
		}
	}
	if(session->filter_count >= MAX_FILTERS) return false;
	struct filter *grown = realloc(session->filters, (session->filter_count + 1) * sizeof(*grown));
	if(!grown) return false;
	session->filters = grown;
	grown[session->filter_count].text = strdup(filter);
	grown[session->filter_count].qos = qos;
	if(!grown[session->filter_count].text) return false;
	session->filter_count++;
	return true;
}

void session_unsubscribe(struct session *session, const char *filter)
{
	for(size_t i = 0; i < session->filter_count; i++){
		if(!strcmp(session->filters[i].text, filter)){
			free(session->filters[i].text);
			session->filters[i] = session->filters[--session->filter_count];
			return;
		}
	}
}

int session_granted(const struct session *session, const char *topic)
{
	int granted = -1;
	for(size_t i = 0; i < session->filter_count; i++){
		bool matches = false;
		if(session->filters[i].qos > granted &&
				mosquitto_topic_matches_sub(session->filters[i].text, topic, &matches) == MOSQ_ERR_SUCCESS && matches){
			granted = session->filters[i].qos;
		}
	}
	return granted;
}
