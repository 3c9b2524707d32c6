/* Frames of HTTP/2 as bytes, for tests that speak it without a library. */
#pragma once

#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

enum { H2_DATA, H2_HEADERS, H2_PRIORITY, H2_RST_STREAM, H2_SETTINGS, H2_PUSH, H2_PING, H2_GOAWAY, H2_WINDOW_UPDATE };
enum { H2_END_STREAM = 1, H2_ACK = 1, H2_END_HEADERS = 4 };
#define H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

static inline void put_bytes(struct buf *b, const void *p, size_t len)
{
	if (buf_append(b, p, len) < 0)
		abort();
}

static inline void put_frame(struct buf *b, unsigned type, unsigned flags, uint32_t stream, const void *p, size_t len)
{
	const uint8_t head[9] = { (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len, (uint8_t)type, (uint8_t)flags,
				  (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream };

	put_bytes(b, head, sizeof(head));
	put_bytes(b, p, len);
}

static inline void put_word_frame(struct buf *b, unsigned type, uint32_t stream, uint32_t word)
{
	const uint8_t p[4] = { (uint8_t)(word >> 24), (uint8_t)(word >> 16), (uint8_t)(word >> 8), (uint8_t)word };

	put_frame(b, type, 0, stream, p, sizeof(p));
}

/* GET or POST of a path of at most 126 bytes, without the dynamic table. */
static inline void put_request(struct buf *b, uint32_t stream, bool post, const char *path, bool end)
{
	uint8_t block[160] = { post ? 0x83 : 0x82, 0x86, 0x01, 1, 'h', 0x04, (uint8_t)strlen(path) };

	memcpy(block + 7, path, strlen(path));
	put_frame(b, H2_HEADERS, H2_END_HEADERS | (end ? H2_END_STREAM : 0), stream, block, 7 + strlen(path));
}
