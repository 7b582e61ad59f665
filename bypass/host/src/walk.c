/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The walker on a stream alone, on the host. */
#include <linux/types.h>
#include <string.h>

#undef __always_inline
#define __always_inline inline __attribute__((always_inline))

#include "intf.h"
#include "frame.bpf.h"

static long walk_load(void *stream, __u32 at, __u8 *to, __u32 n, __u32 size)
{
	memcpy(to, (const __u8 *)stream + at, n);
	return 0;
}

#include "walk.h"

__u32 walk_state_len(void)
{
	return sizeof(struct walk_state);
}

void walk_new(struct walk_state *state, __u32 is_reply, __u32 flags, __u32 len_max, __u32 owed)
{
	memset(state, 0, sizeof(*state));
	state->is_reply = is_reply;
	state->request.flags = flags;
	state->request.len_max = len_max;
	state->reply.len_max = len_max;
	state->reply.owed = owed;
	state->reply.prepared = flags & POOL_PREPARED;
	state->reply.shared = flags & POOL_COMMANDS;
}

/* How many of these bytes were walked. */
__u32 walk_run(struct walk_state *state, __u8 *stream, __u32 len)
{
	struct walk_run run = { .stream = stream, .state = state };

	walk_begin(state, len);
	for (__u32 i = 0; i < RUN_MESSAGES; i++) {
		if (walk_each(i, &run))
			break;
	}
	return state->is_reply ? state->reply.walk.at : state->request.walk.at;
}
