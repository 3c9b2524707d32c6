#include "api/deployments/source.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/random.h"
#include "env/env.h"
#include "git/git.h"

struct source {
	struct api *api;
	struct store_deployment *d;
	source_done_fn *done;
	void *arg;
};

int source_begin(struct api *a, struct store_environment *e, const char *source, const char *branch, const char *commit,
		 struct store_deployment **ret, struct err *err)
{
	char id[UUID_LEN];
	auto_free char *folder = xasprintf("%s/builds/%s", a->data_dir, random_uuid(id));

	if (!a->envs)
		return err_set(err, -EAGAIN, "deployments are not ready yet");
	int r = store_check_room(a->store, err);
	if (r < 0)
		return r;
	if (mkdir(folder, 0750) < 0)
		return err_sys(err, "making %s", folder);
	struct store_deployment *d = store_deployment_add(a->store, e, id, source);
	store_set_str(&d->branch, branch);
	store_set_str(&d->commit, commit);
	store_deployment_save(a->store, d);
	*ret = d;
	return 0;
}

static void finish(struct source *s, const char *notes, const struct err *err)
{
	if (s->done)
		s->done(s->arg, s->d, notes, err);
	free(s);
}

static void on_exported(void *arg, const char *notes, const struct err *export_err)
{
	struct source *s = arg;
	struct store_environment *e = s->d->environment;
	struct err err = ERR_INIT;
	bool newest = list_first(&e->deployments, struct store_deployment, of_environment) == s->d;
	bool moved = export_err && export_err->code == -ESTALE;

	if (export_err)
		err_copy(&err, export_err);
	else if (e->removing)
		err_set(&err, -ENOENT, SOURCE_DELETED);
	else if (!newest)
		err_set(&err, -ESTALE, "a newer deployment was begun meanwhile");
	if (err.code) {
		envs_reject(s->api->envs, s->d, moved || !newest ? STORE_DEPLOYMENT_SUPERSEDED : STORE_DEPLOYMENT_FAILED, err.msg);
		finish(s, notes, &err);
		return;
	}
	int r = envs_deploy(s->api->envs, s->d, &err);
	finish(s, notes, r < 0 ? &err : NULL);
}

void source_deploy(struct api *a, struct store_deployment *d, const char *repository, source_done_fn *done, void *arg)
{
	auto_free char *tar = xasprintf("%s/builds/%s/source.tar", a->data_dir, d->id);
	struct source *s = NEW(struct source);

	*s = (struct source){ .api = a, .d = d, .done = done, .arg = arg };
	git_export(a->git, repository, d->branch, d->commit, d->environment->origin.subdirectory, tar, on_exported, s);
}
