/* backup/zstd.c: a backup made smaller on its way into its file, and back. */
#include <errno.h>
#include <zstd.h>

#include "backup/private.h"
#include "base/mem.h"

#define LEVEL 1        /* as fast as a disk; higher ones save little of what is mostly packed already */
#define WINDOW_LOG 25  /* of what is read: 32 MiB of memory, whatever the file asks for */

/* -- smaller ------------------------------------------------------------------------------------------------------- */

struct backup_squeeze {
	ZSTD_CCtx *ctx;
	backup_bytes_fn *fn;
	void *arg;
	size_t size;
	char *piece;
};

struct backup_squeeze *backup_squeeze_new(backup_bytes_fn *fn, void *arg)
{
	struct backup_squeeze *s = NEW(struct backup_squeeze);

	*s = (struct backup_squeeze){ .ctx = ZSTD_createCCtx(), .fn = fn, .arg = arg, .size = ZSTD_CStreamOutSize() };
	s->piece = xmalloc(s->size);
	if (s->ctx) {
		(void)ZSTD_CCtx_setParameter(s->ctx, ZSTD_c_compressionLevel, LEVEL);
		(void)ZSTD_CCtx_setParameter(s->ctx, ZSTD_c_checksumFlag, 1);
	}
	return s;
}

struct backup_squeeze *backup_squeeze_free(struct backup_squeeze *s)
{
	if (!s)
		return NULL;
	ZSTD_freeCCtx(s->ctx);
	free(s->piece);
	free(s);
	return NULL;
}

static int squeeze(struct backup_squeeze *s, const char *p, size_t len, ZSTD_EndDirective how, struct err *err)
{
	ZSTD_inBuffer in = { p, len, 0 };
	size_t left;

	if (!s->ctx)
		return err_set(err, -ENOMEM, "zstd has no memory");
	do {
		ZSTD_outBuffer out = { s->piece, s->size, 0 };
		left = ZSTD_compressStream2(s->ctx, &out, &in, how);
		if (ZSTD_isError(left))
			return err_set(err, -EIO, "compressing: %s", ZSTD_getErrorName(left));
		int r = out.pos ? s->fn(s->arg, s->piece, out.pos, err) : 0;
		if (r < 0)
			return r;
	} while (in.pos < in.size || (how == ZSTD_e_end && left));
	return 0;
}

int backup_squeeze_feed(struct backup_squeeze *s, const char *p, size_t len, struct err *err)
{
	return squeeze(s, p, len, ZSTD_e_continue, err);
}

int backup_squeeze_end(struct backup_squeeze *s, struct err *err)
{
	return squeeze(s, NULL, 0, ZSTD_e_end, err);
}

/* -- as it was ----------------------------------------------------------------------------------------------------- */

struct swell {
	ZSTD_DCtx *ctx;
	size_t size, left; /* left 0 = a frame has ended, and its sum was right */
	char *piece;
};

struct swell *swell_new(void)
{
	struct swell *s = NEW(struct swell);

	*s = (struct swell){ .ctx = ZSTD_createDCtx(), .size = ZSTD_DStreamOutSize(), .left = 1 };
	s->piece = xmalloc(s->size);
	if (s->ctx)
		(void)ZSTD_DCtx_setParameter(s->ctx, ZSTD_d_windowLogMax, WINDOW_LOG);
	return s;
}

struct swell *swell_free(struct swell *s)
{
	if (!s)
		return NULL;
	ZSTD_freeDCtx(s->ctx);
	free(s->piece);
	free(s);
	return NULL;
}

int swell_feed(struct swell *s, const char *p, size_t len, backup_bytes_fn *fn, void *arg, struct err *err)
{
	ZSTD_inBuffer in = { p, len, 0 };
	bool full = true; /* what did not fit may wait inside */

	if (!s->ctx)
		return err_set(err, -ENOMEM, "zstd has no memory");
	while (in.pos < in.size || full) {
		ZSTD_outBuffer out = { s->piece, s->size, 0 };
		size_t left = ZSTD_decompressStream(s->ctx, &out, &in);
		if (ZSTD_isError(left))
			return err_set(err, -EBADMSG, "%s", ZSTD_getErrorName(left));
		if (in.pos || out.pos)
			s->left = left;
		int r = out.pos ? fn(arg, s->piece, out.pos, err) : 0;
		if (r < 0)
			return r;
		full = out.pos == out.size;
	}
	return 0;
}

bool swell_ended(const struct swell *s)
{
	return s->left == 0;
}
