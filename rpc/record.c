/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Record streams.
 *
 * Input is read into the record being received and, behind it, into a stage of 16 KiB, so that a
 * small message costs one system call and a large one is copied once, by the kernel. A record's
 * memory grows with the bytes that have come, not with the length that the peer announced.
 *
 * Locks: stream->lock, taken last but for the reactor's own. The socket is written without the
 * lock, by the one thread that has set `writing`; only that thread removes buffers from the queue.
 */
#include "rpc/record.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define LAST_FRAGMENT 0x80000000U
#define FRAGMENTS_MAX 1024 /* in one record; nobody needs more than a few */
#define FIRST_SPACE_BYTES ((size_t)512 << 10)
#define VECTORS_MAX 24
#define BUFFER_VECTORS 3 /* of one buffer, at most */

struct record_buffer *record_buffer_create_lent(
	size_t message_bytes, const uint8_t *lent, size_t lent_at, size_t lent_bytes)
{
	struct record_buffer *buffer =
		malloc(sizeof(*buffer) + RECORD_MARK_BYTES + message_bytes - lent_bytes);
	uint32_t mark = htonl(LAST_FRAGMENT | (uint32_t)message_bytes);

	if (!buffer)
		return NULL;
	*buffer = (struct record_buffer){
		.bytes = RECORD_MARK_BYTES + message_bytes,
		.lent_at = RECORD_MARK_BYTES + (lent_bytes ? lent_at : message_bytes),
		.lent_bytes = lent_bytes,
		.lent = lent,
	};
	memcpy(buffer->data, &mark, sizeof(mark));
	return buffer;
}

struct record_buffer *record_buffer_create(size_t message_bytes)
{
	return record_buffer_create_lent(message_bytes, NULL, 0, 0);
}

/* How many of the lent bytes are sent. */
static size_t lent_sent(const struct record_buffer *buffer)
{
	size_t sent = buffer->sent > buffer->lent_at ? buffer->sent - buffer->lent_at : 0;

	return sent < buffer->lent_bytes ? sent : buffer->lent_bytes;
}

static bool is_lent(const struct record_buffer *buffer)
{
	return !buffer->kept && lent_sent(buffer) < buffer->lent_bytes;
}

bool record_buffer_keep(struct record_buffer *buffer)
{
	size_t sent = lent_sent(buffer);

	if (!is_lent(buffer))
		return true;
	buffer->kept = malloc(buffer->lent_bytes - sent);
	if (!buffer->kept)
		return false;
	memcpy(buffer->kept, buffer->lent + sent, buffer->lent_bytes - sent);
	buffer->lent = buffer->kept;
	buffer->lent_skipped = sent;
	return true;
}

void record_buffer_free(struct record_buffer *buffer)
{
	if (buffer)
		free(buffer->kept);
	free(buffer);
}

static void free_chain(struct record_buffer *chain)
{
	while (chain) {
		struct record_buffer *next = chain->next;

		record_buffer_free(chain);
		chain = next;
	}
}

int record_stream_open(struct record_stream *stream, struct reactor *reactor, int fd,
	uint32_t events, size_t record_bytes_limit,
	void (*ready)(struct reactor_source *source, uint32_t events),
	void (*release)(struct record_stream *stream))
{
	int error;

	memset(stream, 0, sizeof(*stream));
	stream->stage = malloc(RECORD_STAGE_BYTES);
	if (!stream->stage)
		return -ENOMEM;
	stream->source.ready = ready;
	stream->reactor = reactor;
	stream->fd = fd;
	atomic_init(&stream->references, 1);
	stream->release = release;
	stream->record_bytes_limit = record_bytes_limit;
	pthread_mutex_init(&stream->lock, NULL);
	error = reactor_add(reactor, fd, events, &stream->source);
	if (error) {
		pthread_mutex_destroy(&stream->lock);
		free(stream->stage);
	}
	return error;
}

void record_stream_reference(struct record_stream *stream)
{
	atomic_fetch_add(&stream->references, 1);
}

void record_stream_release(struct record_stream *stream)
{
	if (atomic_fetch_sub(&stream->references, 1) > 1)
		return;
	close(stream->fd);
	free_chain(stream->first);
	free(stream->record);
	free(stream->stage);
	pthread_mutex_destroy(&stream->lock);
	stream->release(stream);
}

static void release_deferred(void *object)
{
	record_stream_release(object);
}

void record_stream_break(struct record_stream *stream)
{
	pthread_mutex_lock(&stream->lock);
	stream->broken = true;
	pthread_mutex_unlock(&stream->lock);
	shutdown(stream->fd, SHUT_RDWR);
}

void record_stream_close(struct record_stream *stream)
{
	reactor_remove(stream->reactor, &stream->source);
	record_stream_break(stream);
	reactor_defer(stream->reactor, release_deferred, stream);
}

/* -------- input -------- */

/* Makes room for more of the record. */
static int grow_record(struct record_stream *stream)
{
	size_t wanted = stream->record_bytes + stream->fragment_left;
	size_t space = stream->record_space * 2;
	uint8_t *record;

	if (stream->record_bytes < stream->record_space)
		return 0;
	if (space < FIRST_SPACE_BYTES)
		space = FIRST_SPACE_BYTES;
	if (space > wanted)
		space = wanted;
	record = realloc(stream->record, space);
	if (!record)
		return -ENOMEM;
	stream->record = record;
	stream->record_space = space;
	return 0;
}

static int begin_fragment(struct record_stream *stream)
{
	uint32_t mark;

	memcpy(&mark, stream->mark, sizeof(mark));
	mark = ntohl(mark);
	stream->mark_bytes = 0;
	stream->fragment_left = mark & ~LAST_FRAGMENT;
	stream->last_fragment = mark & LAST_FRAGMENT;
	if (stream->fragment_left > stream->record_bytes_limit - stream->record_bytes)
		return -EMSGSIZE;
	if (!stream->fragment_left && !stream->last_fragment)
		return -EPROTO;
	if (++stream->fragments > FRAGMENTS_MAX)
		return -EPROTO;
	return 0;
}

/* Uses staged bytes. Returns 1 (a record is whole), 0 (stage used up) or a negative errno. */
static int take_staged(struct record_stream *stream)
{
	for (;;) {
		size_t staged = stream->stage_end - stream->stage_first;
		size_t bytes;
		int error;

		if (!stream->fragments || (!stream->fragment_left && !stream->last_fragment)) {
			/* Between fragments. */
			bytes = RECORD_MARK_BYTES - stream->mark_bytes;
			if (bytes > staged)
				bytes = staged;
			memcpy(stream->mark + stream->mark_bytes,
				stream->stage + stream->stage_first, bytes);
			stream->mark_bytes += (unsigned int)bytes;
			stream->stage_first += bytes;
			if (stream->mark_bytes < RECORD_MARK_BYTES)
				return 0;
			error = begin_fragment(stream);
			if (error)
				return error;
			continue;
		}
		if (!stream->fragment_left)
			return 1;
		if (!staged)
			return 0;
		error = grow_record(stream);
		if (error)
			return error;
		bytes = stream->record_space - stream->record_bytes;
		if (bytes > stream->fragment_left)
			bytes = stream->fragment_left;
		if (bytes > staged)
			bytes = staged;
		memcpy(stream->record + stream->record_bytes, stream->stage + stream->stage_first,
			bytes);
		stream->record_bytes += bytes;
		stream->fragment_left -= bytes;
		stream->stage_first += bytes;
	}
}

/* One read: the rest of the fragment, then the stage, which is empty. */
static int fill(struct record_stream *stream)
{
	struct iovec vectors[2];
	struct msghdr message = {.msg_iov = vectors};
	size_t direct = 0;
	ssize_t received;
	int error;

	stream->stage_first = stream->stage_end = 0;
	if (stream->fragment_left) {
		error = grow_record(stream);
		if (error)
			return error;
		direct = stream->record_space - stream->record_bytes;
		if (direct > stream->fragment_left)
			direct = stream->fragment_left;
		vectors[message.msg_iovlen++] =
			(struct iovec){stream->record + stream->record_bytes, direct};
	}
	vectors[message.msg_iovlen++] = (struct iovec){stream->stage, RECORD_STAGE_BYTES};
	do {
		received = recvmsg(stream->fd, &message, MSG_DONTWAIT);
	} while (received < 0 && errno == EINTR);
	if (received < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
	if (!received)
		return -ECONNRESET;
	stream->drained = (size_t)received < direct + RECORD_STAGE_BYTES;
	if ((size_t)received < direct)
		direct = (size_t)received;
	stream->record_bytes += direct;
	stream->fragment_left -= direct;
	stream->stage_end = (size_t)received - direct;
	return 1;
}

int record_stream_read(struct record_stream *stream, uint8_t **record, size_t *bytes)
{
	int result;

	for (;;) {
		result = take_staged(stream);
		if (result < 0)
			return result;
		if (result) {
			*record = stream->record;
			*bytes = stream->record_bytes;
			stream->record = NULL;
			stream->record_bytes = stream->record_space = 0;
			stream->fragments = 0;
			stream->last_fragment = false;
			return 1;
		}
		if (stream->drained) {
			stream->drained = false;
			return 0;
		}
		result = fill(stream);
		if (result <= 0)
			return result;
	}
}

int record_stream_discard(struct record_stream *stream)
{
	ssize_t received = recv(stream->fd, stream->stage, RECORD_STAGE_BYTES, MSG_DONTWAIT);

	if (received > 0 || (received < 0 && (errno == EAGAIN || errno == EINTR)))
		return 0;
	return -ECONNRESET;
}

/* -------- output -------- */

static void change_events_locked(struct record_stream *stream, uint32_t events)
{
	if (events == stream->source.events || stream->broken)
		return;
	if (reactor_change(stream->reactor, events, &stream->source)) {
		/* Cannot happen on an open socket; if it did, waiting for it would be for ever. */
		stream->broken = true;
		shutdown(stream->fd, SHUT_RDWR);
	}
}

static void append_locked(struct record_stream *stream, struct record_buffer *chain)
{
	if (stream->last)
		stream->last->next = chain;
	else
		stream->first = chain;
	for (; chain; chain = chain->next) {
		stream->unsent_bytes += chain->bytes;
		stream->last = chain;
	}
}

/* Takes the buffers off the queue that `sent` bytes have finished; returns them. */
static struct record_buffer *finish_locked(struct record_stream *stream, size_t sent)
{
	struct record_buffer *finished = stream->first, **end = &finished;

	stream->unsent_bytes -= sent;
	while (*end) {
		size_t left = (*end)->bytes - (*end)->sent;

		if (sent < left) {
			(*end)->sent += sent;
			break;
		}
		sent -= left;
		end = &(*end)->next;
	}
	stream->first = *end;
	if (!stream->first)
		stream->last = NULL;
	*end = NULL;
	return finished;
}

/* Adds what is unsent of a buffer; there is room for it. */
static void add_vectors(const struct record_buffer *buffer, struct msghdr *message)
{
	struct iovec *next = message->msg_iov + message->msg_iovlen;
	size_t at = buffer->sent, lent_end = buffer->lent_at + buffer->lent_bytes;

	if (at < buffer->lent_at) {
		*next++ = (struct iovec){(void *)(buffer->data + at), buffer->lent_at - at};
		at = buffer->lent_at;
	}
	if (at < lent_end) {
		size_t skipped = buffer->lent_at + buffer->lent_skipped;

		*next++ = (struct iovec){(void *)(buffer->lent + (at - skipped)), lent_end - at};
		at = lent_end;
	}
	if (at < buffer->bytes)
		*next++ = (struct iovec){
			(void *)(buffer->data + (at - buffer->lent_bytes)), buffer->bytes - at};
	message->msg_iovlen = (size_t)(next - message->msg_iov);
}

/* Writes until the queue is empty or the socket full. The lock is held before and after. */
static void write_locked(struct record_stream *stream)
{
	stream->writing = true;
	while (stream->first && !stream->broken) {
		struct iovec vectors[VECTORS_MAX];
		struct msghdr message = {.msg_iov = vectors};
		struct record_buffer *finished;
		ssize_t sent;

		for (struct record_buffer *buffer = stream->first;
			buffer && message.msg_iovlen + BUFFER_VECTORS <= VECTORS_MAX;
			buffer = buffer->next)
			add_vectors(buffer, &message);
		pthread_mutex_unlock(&stream->lock);
		sent = sendmsg(stream->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			sent = 0;
		pthread_mutex_lock(&stream->lock);
		if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			change_events_locked(stream, stream->source.events | EPOLLOUT);
			break;
		}
		if (sent < 0) {
			stream->broken = true;
			shutdown(stream->fd, SHUT_RDWR);
			break;
		}
		finished = finish_locked(stream, (size_t)sent);
		pthread_mutex_unlock(&stream->lock);
		free_chain(finished);
		pthread_mutex_lock(&stream->lock);
	}
	stream->writing = false;
}

/* EPOLLOUT: the socket is full and the reactor goes on when it is not. */
static bool must_wait_locked(const struct record_stream *stream)
{
	return stream->writing || (stream->source.events & EPOLLOUT);
}

/* Copies what is lent of a chain. Returns false if memory is short. */
static bool keep_chain(struct record_buffer *chain)
{
	for (; chain; chain = chain->next) {
		if (!record_buffer_keep(chain))
			return false;
	}
	return true;
}

/*
 * In the queue something is lent only while its sender is in record_stream_send() and writes, so
 * nobody else ever sends lent bytes.
 */
void record_stream_send(struct record_stream *stream, struct record_buffer *chain)
{
	pthread_mutex_lock(&stream->lock);
	if (must_wait_locked(stream)) {
		pthread_mutex_unlock(&stream->lock);
		if (!keep_chain(chain)) {
			free_chain(chain);
			record_stream_break(stream); /* the peer must not wait for it */
			return;
		}
		pthread_mutex_lock(&stream->lock);
	}
	if (stream->broken) {
		pthread_mutex_unlock(&stream->lock);
		free_chain(chain);
		return;
	}
	append_locked(stream, chain);
	if (!must_wait_locked(stream)) {
		write_locked(stream);
		if (!stream->broken && !keep_chain(stream->first)) {
			stream->broken = true;
			shutdown(stream->fd, SHUT_RDWR);
		}
	}
	pthread_mutex_unlock(&stream->lock);
}

void record_stream_writable(struct record_stream *stream)
{
	pthread_mutex_lock(&stream->lock);
	change_events_locked(stream, stream->source.events & ~(uint32_t)EPOLLOUT);
	if (!stream->writing)
		write_locked(stream);
	pthread_mutex_unlock(&stream->lock);
}

size_t record_stream_unsent(struct record_stream *stream)
{
	size_t bytes;

	pthread_mutex_lock(&stream->lock);
	bytes = stream->unsent_bytes;
	pthread_mutex_unlock(&stream->lock);
	return bytes;
}

void record_stream_want_input(struct record_stream *stream, bool wanted)
{
	pthread_mutex_lock(&stream->lock);
	change_events_locked(stream, wanted ? stream->source.events | EPOLLIN
					    : stream->source.events & ~(uint32_t)EPOLLIN);
	pthread_mutex_unlock(&stream->lock);
}
