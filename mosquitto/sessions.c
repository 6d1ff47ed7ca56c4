/* Who is connected: by client id and by principal. No rules. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "gate.h"

struct session *sessions;
static struct session *by_principal; /* the first of each */

bool random_handle(char text[HANDLE_CHARS + 1])
{
	unsigned long long number = 0;
	bool is_random = RAND_bytes((unsigned char *)&number, sizeof(number)) == 1;
	snprintf(text, HANDLE_CHARS + 1, "%016llx", number);
	return is_random;
}

static void set_first(struct session *session)
{
	HASH_ADD_KEYPTR(hh_principal, by_principal, session->principal, strlen(session->principal), session);
}

static void leave(struct session *session)
{
	struct session *first = sessions_of(session->principal), **place = &first;
	HASH_DELETE(hh_principal, by_principal, first);
	while(*place != session) place = &(*place)->next;
	*place = session->next;
	if(first) set_first(first);
}

static void release(struct session *session)
{
	while(session->filters) session_unsubscribe(session, session->filters->text);
	free(session->client_id);
	free(session->principal);
	free(session);
}

struct session *session_add(const struct mosquitto *client, const struct principal *who, bool resumes)
{
	struct session *session = calloc(1, sizeof(*session)), *before;
	if(!session) return NULL;
	session->client_id = strdup(mosquitto_client_id(client));
	bool made = session->client_id && random_handle(session->handle);
	const char *name = who->name ? who->name : session->handle;
	if(!made || asprintf(&session->principal, "%c:%s", "pdovr"[who->role], name) < 0){
		session->principal = NULL; /* what it points to is undefined then */
		release(session);
		return NULL;
	}
	session->client = client;
	session->who = *who;
	before = session_by_client_id(session->client_id);
	if(before && resumes){
		session->filters = before->filters;
		session->filter_count = before->filter_count;
		before->filters = NULL;
	}
	if(before) session_remove(before);
	HASH_ADD_KEYPTR(hh, sessions, session->client_id, strlen(session->client_id), session);
	session->next = sessions_of(session->principal);
	if(session->next) HASH_DELETE(hh_principal, by_principal, session->next);
	set_first(session);
	return session;
}

void session_remove(struct session *session)
{
	HASH_DEL(sessions, session);
	leave(session);
	principal_free(&session->who);
	release(session);
}

struct session *session_by_client_id(const char *client_id)
{
	struct session *found = NULL;
	HASH_FIND_STR(sessions, client_id, found);
	return found;
}

struct session *sessions_of(const char *principal)
{
	struct session *first = NULL;
	HASH_FIND(hh_principal, by_principal, principal, strlen(principal), first);
	return first;
}

bool session_subscribe(struct session *session, const char *text, uint8_t qos)
{
	size_t size = strlen(text) + 1;
	session_unsubscribe(session, text);
	struct filter *filter = session->filter_count < MAX_FILTERS ? malloc(sizeof(*filter) + size) : NULL;
	if(!filter) return false;
	memcpy(filter->text, text, size);
	filter->qos = qos;
	filter->next = session->filters;
	session->filters = filter;
	session->filter_count++;
	return true;
}

void session_unsubscribe(struct session *session, const char *text)
{
	struct filter **place = &session->filters;
	while(*place && strcmp((*place)->text, text)) place = &(*place)->next;
	struct filter *filter = *place;
	if(!filter) return;
	*place = filter->next;
	session->filter_count--;
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
