/* SPDX-License-Identifier: GPL-2.0 */
/* The maps. Sizes that depend on the configuration are set by the loader. */
#ifndef TIGGER_MAPS_BPF_H
#define TIGGER_MAPS_BPF_H

/* Far ends that were captured, by socket cookie. Its sockets run the program `tap`. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} socks SEC(".maps");

/* Our own sockets to remote clients, by socket cookie. What they send runs no program. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} sinks SEC(".maps");

/* A captured far end, kept with its socket. */
struct end {
	__u64 cookie;
	__u32 slot;		/* ROLE_* and index, 0 = not known yet */
	__u32 cut;		/* the last run redirected a part of a send */
	/* The walk of this run. Not on the stack, where the verifier would follow each value through the loop. */
	union {
		struct request_walk request;
		struct reply_walk reply;
	};
};

/* What each captured far end is. Goes with its socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct end);
} ends SEC(".maps");

/* Tells user space about captured far ends. One that was pushed out is served by the user path. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple);
	__type(value, struct captured);
} found SEC(".maps");

/* Tells `tap` which client or server a socket cookie is. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u32);
} slots SEC(".maps");

/* Where our listeners are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct listener);
	__type(value, __u32);
} listeners SEC(".maps");

/* Connections to servers that we are about to open: nobody else's connection to PostgreSQL is touched. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple);
	__type(value, __u32);
} expected SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct client);
} clients SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct server);
} servers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pool);
} pools SEC(".maps");

/* What clients call their prepared statements. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct name);
	__type(value, struct statement);
} names SEC(".maps");

/* Which of them each server has. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct prepared);
} prepared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

/* Wakes user space: see wake_user_space. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} wakes SEC(".maps");

static __always_inline struct client *client_at(__u32 index)
{
	return bpf_map_lookup_elem(&clients, &index);
}

static __always_inline struct server *server_at(__u32 index)
{
	return bpf_map_lookup_elem(&servers, &index);
}

static __always_inline struct pool *pool_at(__u32 index)
{
	return bpf_map_lookup_elem(&pools, &index);
}

static __always_inline struct prepared *prepared_at(__u32 server)
{
	return bpf_map_lookup_elem(&prepared, &server);
}

static __always_inline struct totals *totals_at_all(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&totals, &zero);
}

static __always_inline void count_reason(__u32 reason)
{
	struct totals *t = totals_at_all();

	if (t && reason < REASONS)
		__sync_fetch_and_add(&t->reasons[reason], 1);
}

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))
/* Leaves the cache line to whoever has it, if there is nothing to be changed. */
#define write_if_new(x, value)					\
	do {							\
		if (READ_ONCE(x) != (value))			\
			WRITE_ONCE(x, value);			\
	} while (0)

#endif
