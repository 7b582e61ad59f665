/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The walker on a stream alone, for whichever compiler: `walk.c` for the host, `walk.bpf.c` for the kernel. Who includes
 * this says how bytes of the stream are read:
 *
 * static long walk_load(void *stream, __u32 at, __u8 *to, __u32 n, __u32 size);
 */
#ifndef TIGGER_WALK_H
#define TIGGER_WALK_H

/* Goes from run to run as it is. */
struct walk_state {
	__u32 is_reply;
	__u32 unused;
	struct request_walk request;
	struct reply_walk reply;
};

/* What a run works on. */
struct walk_run {
	void *stream;
	struct walk_state *state;
};

static long walk_request(struct walk_run *run, struct request_walk *w)
{
	__u32 left = w->walk.len - w->walk.at, there = left < HEADER_LEN + 2 ? left : HEADER_LEN + 2, text;
	__u8 bytes[HEADER_LEN + 2] = {}, head[COMMAND_HEAD] = {};
	enum naming naming = UNNAMED;

	/* As each_request sees a request: all of this, or the header and one byte, or the header, or its first byte. */
	if (there < HEADER_LEN)
		there = 1;
	if (walk_load(run->stream, w->walk.at, bytes, there, sizeof(bytes)))
		return 1;
	text = command_at(w->flags, bytes, there);
	if (text) {
		left -= text;
		if (left > COMMAND_HEAD)
			left = COMMAND_HEAD;
		if (!left || walk_load(run->stream, w->walk.at + text, head, left, sizeof(head)))
			return 1;
		naming = may_be_command(head, left) ? NAME_COMMAND : UNNAMED;
	}
	return request_step(w, bytes, there, naming);
}

static long walk_reply(struct walk_run *run, struct reply_walk *w)
{
	__u32 left = w->walk.len - w->walk.at, there = left < READY_LEN ? 1 : READY_LEN;
	__u8 bytes[READY_LEN] = {};

	if (walk_load(run->stream, w->walk.at, bytes, there, sizeof(bytes)))
		return 1;
	return reply_step(w, bytes, there);
}

static long walk_each(__u32 unused, void *context)
{
	struct walk_run *run = context;
	struct walk_state *state = run->state;
	struct walk *walk = state->is_reply ? &state->reply.walk : &state->request.walk;

	if (walk->rest)
		return walk_rest(walk);
	if (walk->at >= walk->len)
		return 1;
	return state->is_reply ? walk_reply(run, &state->reply) : walk_request(run, &state->request);
}

/* The next `len` bytes begin. */
static __always_inline void walk_begin(struct walk_state *state, __u32 len)
{
	struct walk *walk = state->is_reply ? &state->reply.walk : &state->request.walk;

	walk->at = 0;
	walk->len = len;
	walk->reason = REASON_NONE;
	state->request.count = 0;
}

#endif
