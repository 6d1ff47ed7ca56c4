/* Who may publish and subscribe where. Look-ups only: no sessions, no database. The same rules as
 * mqttprov/core/permissions.py. */
#include <stdio.h>
#include <string.h>

#include "gate.h"

#define OWN ME "*", GATEWAY "*"
#define NOT_OWN "!" ME "*", "!" GATEWAY "*"
/* What no pattern and no operator opens: requests hold secrets, and internal topics are the responder's. */
#define NOT_RESERVED "!$*", "!/provision/*", "!provision/*", "!" INTERNAL "*"
/* Whatever a device's name makes of a pattern, it never opens the topics of others. */
#define BY_PROFILE NOT_RESERVED, "!v1/*", "%"
#define AUDIT "provision/audit/*"

/* What each role may. The first rule that fits decides; if none does the answer is no. `x*` fits whatever
 * begins with x, `!` forbids, and `%` stands for the patterns of the device's profile. */
static const char *const rules[ROLES][ACTIONS][9] = {
	[ROLE_PROVISIONING] = {
		[PUBLISH] = {REQUEST_TOPIC},
		[SUBSCRIBE] = {RESPONSE_TOPIC}, /* nothing that is routed: its replies are for it alone */
	},
	[ROLE_DEVICE] = {
		[PUBLISH] = {OWN, BY_PROFILE},
		[SUBSCRIBE] = {OWN, BY_PROFILE},
		[RECEIVE] = {BY_PROFILE},
	},
	[ROLE_OPERATOR] = {
		[PUBLISH] = {NOT_RESERVED, NOT_OWN, "*"},
		[SUBSCRIBE] = {"!$*", "*"},
		[RECEIVE] = {AUDIT, NOT_RESERVED, NOT_OWN, "*"},
	},
	[ROLE_OBSERVER] = {
		[SUBSCRIBE] = {"!$*", "*"},
		[RECEIVE] = {AUDIT, NOT_RESERVED, NOT_OWN, "*"},
	},
	[ROLE_RESPONDER] = {
		[PUBLISH] = {CONTROL_TOPIC, AUDIT},
		[SUBSCRIBE] = {"$share/prov/" INTERNAL "*", INTERNAL "*"},
		[RECEIVE] = {INTERNAL "*"},
	},
};

static bool begins(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool is_own_topic(const char *topic)
{
	return begins(topic, ME) || begins(topic, GATEWAY);
}

bool is_name(const char *name)
{
	return name[0] && name[0] != '$' && strlen(name) <= MAX_NAME_BYTES && !strpbrk(name, "+#/\n");
}

/* Whether all that `wanted` (a topic or a filter) names is within the pattern, which ends with its line. */
static bool covers(const char *pattern, const char *wanted)
{
	for(;;){
		size_t allowed = strcspn(pattern, "/\n"), level = strcspn(wanted, "/");
		if(allowed == 1 && *pattern == '#') return true;
		if(level == 1 && *wanted == '#') return false;
		bool any = allowed == 1 && *pattern == '+';
		if(!any && (allowed != level || memcmp(pattern, wanted, level))) return false;
		pattern += allowed;
		wanted += level;
		if(!*wanted && *pattern == '/') return pattern[1] == '#'; /* `a/#` covers `a` */
		if(!*wanted || *pattern != '/') return !*wanted;
		pattern++;
		wanted++;
	}
}

static bool by_profile(const char *patterns, const char *wanted)
{
	while(patterns){
		if(covers(patterns, wanted)) return true;
		patterns = strchr(patterns, '\n');
		if(patterns) patterns++;
	}
	return false;
}

bool may(const struct principal *who, enum action action, const char *topic)
{
	for(const char *const *rule = rules[who->role][action]; *rule; rule++){
		const char *text = **rule == '!' ? *rule + 1 : *rule;
		size_t prefix = strcspn(text, "*");
		bool fits = text[prefix] ? !strncmp(topic, text, prefix) : !strcmp(topic, text);
		if(*text == '%') fits = by_profile(who->patterns[action == PUBLISH ? PUBLISH : SUBSCRIBE], topic);
		if(fits) return **rule != '!';
	}
	return false;
}

bool topic_inward(const char *name, const char *topic, char inward[TOPIC_SIZE])
{
	bool gateway = begins(topic, GATEWAY);
	const char *part = gateway ? "gateway/" : "", *rest = topic + strlen(gateway ? GATEWAY : ME);
	if(!is_name(name)) return false; /* the second wall: names are checked where devices are made, too */
	return snprintf(inward, TOPIC_SIZE, DEVICES "%s/%s%s", name, part, rest) < TOPIC_SIZE;
}

bool topic_outward(const char *topic, char device[MAX_NAME_BYTES + 3], char outward[TOPIC_SIZE])
{
	if(!begins(topic, DEVICES)) return false;
	const char *name = topic + strlen(DEVICES), *rest = strchr(name, '/');
	if(!rest || rest == name || rest - name > MAX_NAME_BYTES) return false;
	snprintf(device, MAX_NAME_BYTES + 3, "d:%.*s", (int)(rest - name), name);
	bool gateway = begins(rest, "/gateway/");
	rest += strlen(gateway ? "/gateway/" : "/");
	return snprintf(outward, TOPIC_SIZE, "%s%s", gateway ? GATEWAY : ME, rest) < TOPIC_SIZE;
}
