/* Who may publish and subscribe where. Look-ups only: no sessions, no database. The same rules as mqttprov/core/permissions.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gate.h"

static bool begins(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* The rest of a text behind a prefix; NULL if it does not begin with it. */
static const char *behind(const char *text, const char *prefix)
{
	return begins(text, prefix) ? text + strlen(prefix) : NULL;
}

bool is_own_topic(const char *topic)
{
	return begins(topic, ME) || begins(topic, GATEWAY);
}

bool is_name(const char *name)
{
	return name[0] && name[0] != '$' && strlen(name) <= MAX_NAME_BYTES && !strpbrk(name, "+#/\n");
}

/* What no pattern and no operator opens: requests hold secrets, and internal topics are the responder's. */
static bool is_reserved(const char *topic)
{
	return topic[0] == '$' || begins(topic, "/provision/") || begins(topic, "provision/") || begins(topic, INTERNAL);
}

/* Whether every topic that `wanted` (a topic or a filter) names is within the pattern, with `%d` for the name. */
static bool covers(const char *pattern, size_t pattern_length, const char *name, const char *wanted)
{
	const char *end = pattern + pattern_length;
	for(;;){
		size_t level = strcspn(wanted, "/");
		const char *stop = memchr(pattern, '/', (size_t)(end - pattern));
		size_t length = (size_t)((stop ? stop : end) - pattern);
		if(length == 1 && *pattern == '#') return true;
		if(level == 1 && *wanted == '#') return false;
		if(length != 1 || *pattern != '+'){
			const char *at = wanted, *last = wanted + level;
			for(size_t i = 0; i < length; i++){
				if(pattern[i] == '%' && i + 1 < length && pattern[i + 1] == 'd'){
					size_t n = strlen(name);
					if((size_t)(last - at) < n || memcmp(at, name, n)) return false;
					at += n;
					i++;
				}else if(at == last || *at++ != pattern[i]){
					return false;
				}
			}
			if(at != last) return false;
		}
		if(!wanted[level]) return !stop || (end - stop == 2 && stop[1] == '#'); /* `a/#` covers `a` */
		if(!stop) return false;
		pattern = stop + 1;
		wanted += level + 1;
	}
}

static bool by_pattern(const char *patterns, const char *name, const char *wanted)
{
	/* Whatever a device's name makes of a pattern, it never opens the topics of others. */
	if(is_reserved(wanted) || begins(wanted, "v1/")) return false;
	while(patterns && *patterns){
		size_t length = strcspn(patterns, "\n");
		if(covers(patterns, length, name, wanted)) return true;
		patterns += length;
		if(*patterns) patterns++;
	}
	return false;
}

bool may_publish(const struct principal *who, const char *topic)
{
	switch(who->role){
		case ROLE_PROVISIONING:
			return !strcmp(topic, REQUEST_TOPIC);
		case ROLE_DEVICE:
			return is_own_topic(topic) || by_pattern(who->publish_patterns, who->name, topic);
		case ROLE_OPERATOR:
			return !is_reserved(topic) && !is_own_topic(topic);
		case ROLE_RESPONDER:
			return !strcmp(topic, CONTROL_TOPIC) || begins(topic, "provision/audit/");
		case ROLE_OBSERVER:
			break;
	}
	return false;
}

bool may_subscribe(const struct principal *who, const char *filter)
{
	switch(who->role){
		case ROLE_PROVISIONING:
			return !strcmp(filter, RESPONSE_TOPIC);
		case ROLE_DEVICE:
			return is_own_topic(filter) || by_pattern(who->subscribe_patterns, who->name, filter);
		case ROLE_OPERATOR:
		case ROLE_OBSERVER:
			return filter[0] != '$';
		case ROLE_RESPONDER:
			return begins(filter, "$share/prov/" INTERNAL) || begins(filter, INTERNAL);
	}
	return false;
}

/* Whether a message that is routed may reach it. What is for one session alone does not come this way. */
bool may_receive(const struct principal *who, const char *topic)
{
	switch(who->role){
		case ROLE_PROVISIONING:
			return false;
		case ROLE_DEVICE:
			return by_pattern(who->subscribe_patterns, who->name, topic);
		case ROLE_OPERATOR:
		case ROLE_OBSERVER:
			return (!is_reserved(topic) || begins(topic, "provision/audit/")) && !is_own_topic(topic);
		case ROLE_RESPONDER:
			return begins(topic, INTERNAL);
	}
	return false;
}

/* Both in one. NULL: no memory, or longer than a topic can be: Mosquitto would send such a one as a broken packet. */
static char *joined(const char *a, const char *b)
{
	char *text = NULL;
	if(strlen(a) + strlen(b) > UINT16_MAX || asprintf(&text, "%s%s", a, b) < 0) return NULL;
	return text;
}

char *topic_inward(const char *name, const char *topic)
{
	char own[sizeof(DEVICES) + MAX_NAME_BYTES + sizeof("/gateway/")];
	const char *of_gateway = behind(topic, GATEWAY), *rest = of_gateway ? of_gateway : behind(topic, ME);
	if(!rest || !is_name(name)) return NULL; /* the second wall: names are checked where devices are made, too */
	snprintf(own, sizeof(own), DEVICES "%s/%s", name, of_gateway ? "gateway/" : "");
	return joined(own, rest);
}

char *topic_outward(const char *topic, char name[MAX_NAME_BYTES + 1])
{
	const char *rest = behind(topic, DEVICES);
	size_t length = rest ? strcspn(rest, "/") : 0;
	if(!length || length > MAX_NAME_BYTES || !rest[length]) return NULL;
	memcpy(name, rest, length);
	name[length] = '\0';
	rest += length + 1;
	const char *of_gateway = behind(rest, "gateway/");
	return joined(of_gateway ? GATEWAY : ME, of_gateway ? of_gateway : rest);
}
