/* env/keep.c: how many images of an environment are kept. Those beyond the setting go, one after another: first what never
 * served, then what served longest ago. What serves, what is on its way and what an instance or a sandbox runs from stays,
 * and is looked at again when the next deployment is over or the next instance ends. Of those that have no image as many keep
 * their source, from which they can be built again. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rmtree.h"
#include "env/private.h"
#include "image/image.h"
#include "store/envset.h"

/* When it last became READY; 0 = never. */
int64_t deployment_ready_ms(const struct store_deployment *d)
{
	int64_t at_ms = 0;

	list_foreach(&d->transitions, struct store_transition, of_deployment, t)
		if (t->to == STORE_DEPLOYMENT_READY)
			at_ms = t->at_ms;
	return at_ms;
}

static bool is_older(const struct store_deployment *a, const struct store_deployment *b)
{
	int64_t ready_a = deployment_ready_ms(a), ready_b = deployment_ready_ms(b);

	return ready_a != ready_b ? ready_a < ready_b : a->created_ms < b->created_ms;
}

static bool is_needed(const struct env *v, const struct store_deployment *d)
{
	return d == v->serving || d == v->preparing || (v->pending && v->pending->d == d) || env_has_instance(v->envs, d);
}

/* The next one to go, or NULL: there are few enough, or all others are needed. */
static struct store_deployment *next(const struct env *v, uint64_t keep)
{
	struct store_deployment *oldest = NULL;
	uint64_t n = 0;

	list_foreach(&v->record->deployments, struct store_deployment, of_environment, d) {
		if (!*d->image)
			continue;
		n++;
		if (!is_needed(v, d) && (!oldest || is_older(d, oldest)))
			oldest = d;
	}
	return n > keep ? oldest : NULL;
}

/* -- sources ------------------------------------------------------------------------------------------------------- */

char *deployment_source(const struct envs *e, const struct store_deployment *d)
{
	return xasprintf("%s/builds/%s/source.tar", e->settings.data_dir, d->id);
}

void deployment_forget_source(const struct envs *e, const struct store_deployment *d)
{
	auto_free char *source = deployment_source(e, d);

	unlink(source);
}

static bool has_source_alone(const struct env *v, const struct store_deployment *d)
{
	auto_free char *source = deployment_source(v->envs, d);

	return !*d->image && (d->state == STORE_DEPLOYMENT_FAILED || d->state == STORE_DEPLOYMENT_STOPPED) && !is_needed(v, d) &&
	       access(source, F_OK) == 0;
}

/* The list has the newest first. */
static void keep_sources(const struct env *v, uint64_t keep)
{
	uint64_t n = 0;

	list_foreach(&v->record->deployments, struct store_deployment, of_environment, d)
		if (has_source_alone(v, d) && ++n > keep)
			deployment_forget_source(v->envs, d);
}

static bool is_id(const char *name)
{
	return strlen(name) == STORE_ID_LEN - 1 && strspn(name, "0123456789abcdef-") == STORE_ID_LEN - 1;
}

void envs_tidy_sources(struct envs *e)
{
	auto_free char *path = xasprintf("%s/builds", e->settings.data_dir);
	DIR *dir = opendir(path);

	if (!dir)
		return;
	for (struct dirent *entry; (entry = readdir(dir));) {
		const struct store_deployment *d = store_deployment_by_id(e->store, entry->d_name);
		if (d && d->state == STORE_DEPLOYMENT_SUPERSEDED)
			deployment_forget_source(e, d);
		else if (!d && is_id(entry->d_name))
			(void)!rmtree(dirfd(dir), entry->d_name);
	}
	closedir(dir);
}

/* -- images -------------------------------------------------------------------------------------------------------- */

static void on_removed(void *arg, const struct err *err)
{
	struct env *v = arg;
	struct store_deployment *d = STEAL(v->removing);

	if (err && err->code != -ENOENT)
		return; /* a sandbox runs from it, say; later again */
	deployment_forget_source(v->envs, d);
	store_set_str(&d->image, "");
	store_deployment_save(v->envs->store, d);
	env_keep(v);
}

void env_on_keep(struct loop_timer *t UNUSED, void *arg)
{
	struct env *v = arg;
	struct envs *e = v->envs;
	uint64_t keep = envset_number_or(v->record, ENVSET_KEEP_IMAGES, e->settings.keep_images);
	struct store_deployment *d = v->removing || !e->settings.images || !keep ? NULL : next(v, keep);

	if (keep)
		keep_sources(v, keep);
	if (!d)
		return;
	v->removing = d;
	images_remove(e->settings.images, d->image, on_removed, v);
}

void env_keep(struct env *v)
{
	loop_timer_start(&v->keep, 0); /* what has just ended holds its image until the next turn of the loop */
}
