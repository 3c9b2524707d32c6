/* Who may make, see and revoke keys, and change members. */
#include <errno.h>

#include "auth/auth.h"
#include "base/time.h"

int auth_may_know(const struct auth_caller *c, const struct store_namespace *ns, struct err *err)
{
	if (auth_role_in(c, ns) != AUTH_NOBODY || (c->user && c->user == ns))
		return 0;
	return err_set(err, -ENOENT, "there is no namespace \"%s\" that this key may see", ns->name);
}

static int not_by_session(const struct auth_caller *c, struct err *err)
{
	return c->session_id ? err_set(err, -EPERM, "a session's key changes neither keys nor members") : 0;
}

int auth_may_manage(const struct auth_caller *c, const struct store_namespace *ns, struct err *err)
{
	int r = auth_may_know(c, ns, err);

	r = r < 0 ? r : not_by_session(c, err);
	if (r < 0)
		return r;
	int role = auth_role_in(c, ns);
	if (role >= STORE_ROLE_OWNER)
		return 0;
	return err_set(err, -EPERM, "this key's role in %s is %s, the request needs %s", ns->name,
		       store_role_name(role < 0 ? STORE_ROLE_READER : (enum store_role)role), store_role_name(STORE_ROLE_OWNER));
}

int auth_may_manage_key(const struct auth_caller *c, const struct store_key *k, struct err *err)
{
	/* Who may less than a key cannot touch it: a member's key does not revoke an operator's, nor one for an organisation the
	 * user's others. */
	bool own = c->user && c->user == k->user && c->key->role >= k->role && (c->ns == c->user || c->ns == k->ns);

	if (own)
		return not_by_session(c, err);
	if (auth_role_in(c, k->ns) == AUTH_NOBODY)
		return err_set(err, -ENOENT, "there is no key \"%s\" that this key may see", k->id);
	if (k->role == STORE_ROLE_ADMIN)
		return auth_need_role(c, STORE_ROLE_ADMIN, err);
	return auth_may_manage(c, k->ns, err);
}

/* -- new keys ---------------------------------------------------------------------------------------------------- */

static int check_user(const struct auth_caller *c, const struct store_key_spec *spec, struct err *err)
{
	if (!spec->user)
		return 0;
	if (c->user && c->ns != c->user && c->ns != spec->ns && c->role != STORE_ROLE_ADMIN)
		return err_set(err, -EPERM, "namespace: \"%s\": this key is for \"%s\", and makes keys for that only",
			       spec->ns->name, c->ns->name);
	if (c->user != spec->user && c->role != STORE_ROLE_ADMIN)
		return err_set(err, -EPERM, "user: \"%s\": a user's keys are made by the user and by operators", spec->user->name);
	if (spec->user == spec->ns || store_member_find(spec->ns, spec->user))
		return 0;
	return err_set(err, -EINVAL, "user: \"%s\": is no member of \"%s\"", spec->user->name, spec->ns->name);
}

/* The most that a new key may be. */
static enum store_role most(const struct auth_caller *c, const struct store_key_spec *spec)
{
	if (c->role == STORE_ROLE_ADMIN)
		return STORE_ROLE_ADMIN;
	if (spec->user)
		return MIN(c->key->role, STORE_ROLE_OWNER);
	return (enum store_role)auth_role_in(c, spec->ns);
}

static int check_life(const struct auth_caller *c, struct store_key_spec *spec, struct err *err)
{
	int64_t own = c->key->expires_ms;
	char text[TIME_ISO_LEN];

	if (!spec->expires_ms)
		spec->expires_ms = own;
	if (own && spec->expires_ms > own)
		return err_set(err, -EPERM, "the new key may not outlive the one that makes it, which expires at %s",
			       time_iso(own, text));
	return 0;
}

int auth_may_make_key(const struct auth_caller *c, struct store_key_spec *spec, const char *role, struct err *err)
{
	enum store_role max;
	int r = not_by_session(c, err);

	r = r < 0 ? r : auth_may_know(c, spec->ns, err);
	if (r == 0 && store_namespace_is_user(spec->ns) && (!spec->user || spec->user != spec->ns))
		r = err_set(err, -EINVAL, "user: expected \"%s\": keys of a user's namespace are the user's", spec->ns->name);
	r = r < 0 ? r : spec->user ? check_user(c, spec, err) : auth_may_manage(c, spec->ns, err);
	if (r < 0)
		return r;
	max = most(c, spec);
	spec->role = spec->user ? MIN(max, STORE_ROLE_OWNER) : MIN(max, STORE_ROLE_MEMBER);
	r = role ? store_role_read("role", role, STORE_ROLE_ADMIN, &spec->role, err) : 0;
	if (r == 0 && spec->role == STORE_ROLE_ADMIN && spec->user && spec->user != spec->ns)
		r = err_set(err, -EINVAL, "role: \"admin\": expected no organisation beside it: an operator's key is of no namespace only");
	if (r == 0 && spec->role > max)
		r = err_set(err, -EPERM, "role: \"%s\": the key that makes it has %s", role, store_role_name(max));
	return r < 0 ? r : check_life(c, spec, err);
}
