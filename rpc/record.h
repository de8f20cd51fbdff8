/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Record streams: ONC RPC messages over a non-blocking TCP socket (RFC 5531, section 11).
 *
 * Reading belongs to the reactor's thread. Writing is open to all threads: whoever finds the stream
 * idle writes to the socket himself; what the socket does not take is written by the reactor.
 */
#ifndef ROZO_RPC_RECORD_H
#define ROZO_RPC_RECORD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rpc/reactor.h"

#pragma GCC visibility push(hidden)

/* No message is larger: the largest payload of the protocols is 8 MiB. */
#define RECORD_BYTES_MAX (10U << 20)

#define RECORD_MARK_BYTES 4
#define RECORD_STAGE_BYTES 16384

/*
 * A message to be sent: the record mark and the message. A part of it may lie elsewhere: lent, it
 * is the property of who sends the message, until record_stream_send() has returned or
 * record_buffer_keep() was called.
 */
struct record_buffer {
	struct record_buffer *next;
	size_t bytes; /* mark included, and what lies elsewhere */
	size_t sent;
	size_t lent_at; /* where in the message the part belongs, mark included */
	size_t lent_bytes; /* 0: there is none */
	size_t lent_skipped; /* so many bytes of the part are sent, and not at lent any more */
	const uint8_t *lent;
	uint8_t *kept; /* lent, if it is the buffer's own, or NULL */
	uint8_t data[]; /* all but the part; 8-byte aligned */
};

/* A buffer for a message of the given size, the mark already written. NULL: no memory. */
struct record_buffer *record_buffer_create(size_t message_bytes);

/* The same, with lent_bytes from byte lent_at of the message on lying elsewhere; 0: none. */
struct record_buffer *record_buffer_create_lent(
	size_t message_bytes, const uint8_t *lent, size_t lent_at, size_t lent_bytes);

/* Copies what is lent, as far as it is not sent. Returns false if memory is short. */
bool record_buffer_keep(struct record_buffer *buffer);

void record_buffer_free(struct record_buffer *buffer);

struct record_stream {
	struct reactor_source source; /* its events: changed with the lock */
	struct reactor *reactor;
	int fd;
	atomic_uint references;
	void (*release)(struct record_stream *stream); /* frees the object around it */

	/* Input: the reactor's thread. */
	size_t record_bytes_limit; /* larger records end the connection */
	uint8_t *record; /* being received */
	size_t record_bytes; /* received so far */
	size_t record_space;
	size_t fragment_left;
	unsigned int fragments;
	bool last_fragment;
	uint8_t mark[RECORD_MARK_BYTES];
	unsigned int mark_bytes;
	uint8_t *stage; /* received, not yet looked at */
	size_t stage_first;
	size_t stage_end;
	bool drained; /* the last read took all there was */

	/* Output. */
	pthread_mutex_t lock; /* guards the rest; only the reactor takes locks inside it */
	struct record_buffer *first;
	struct record_buffer *last;
	size_t unsent_bytes;
	bool writing; /* some thread is in sendmsg() */
	bool broken; /* nothing more is sent */
};

/*
 * Takes over a connected or connecting socket with one reference and begins to wait for `events`.
 * release() is called with the last reference gone, the socket closed.
 * Returns 0, -ENOMEM, or a negative errno of epoll_ctl(2); after an error nothing was taken over.
 */
int record_stream_open(struct record_stream *stream, struct reactor *reactor, int fd,
	uint32_t events, size_t record_bytes_limit,
	void (*ready)(struct reactor_source *source, uint32_t events),
	void (*release)(struct record_stream *stream));

void record_stream_reference(struct record_stream *stream);
void record_stream_release(struct record_stream *stream);

/*
 * Ends the connection and drops the owner's reference when it is safe to. From the reactor's
 * thread, once.
 */
void record_stream_close(struct record_stream *stream);

/* Makes the reactor find the connection at its end; from any thread. */
void record_stream_break(struct record_stream *stream);

/*
 * Reads on. *record receives a malloc'd record that is the caller's.
 * Returns 1 (a record), 0 (no whole record for now), -ECONNRESET (the peer closed), another
 * negative errno of recv(2), -EMSGSIZE (larger than allowed), -EPROTO (not a record) or -ENOMEM.
 */
int record_stream_read(struct record_stream *stream, uint8_t **record, size_t *bytes);

/* Reads and forgets what is there. Returns 0 or, at the end of the stream, -ECONNRESET. */
int record_stream_discard(struct record_stream *stream);

/*
 * Sends a chain of buffers and takes them over, but not what is lent to them: of that nothing is
 * used any more on return. Never blocks; a failure ends the connection, which the reactor's thread
 * sees.
 */
void record_stream_send(struct record_stream *stream, struct record_buffer *chain);

/* Goes on writing; for the owner's ready() when it is told EPOLLOUT. */
void record_stream_writable(struct record_stream *stream);

/* Bytes that the socket has not yet taken. */
size_t record_stream_unsent(struct record_stream *stream);

/* Switches waiting for input on or off. */
void record_stream_want_input(struct record_stream *stream, bool wanted);

#pragma GCC visibility pop

#endif
