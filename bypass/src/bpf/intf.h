/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The contract between the programs and user space: everything both of them read or write, declared here once. The
 * Rust side is generated from it.
 *
 * Who writes what is said at each field, because nothing here is under a lock: `word` and the bitmaps change by atomic
 * operations only, everything else has one writer at a time.
 */
#ifndef TIGGER_INTF_H
#define TIGGER_INTF_H

enum limits {
	/* Servers of a pool come in chunks of as many as a bitmap word has bits. */
	CHUNK_SERVERS = 64,
	/* Chunks of a pool: servers beyond 512 stay on the user path. */
	POOL_CHUNKS = 8,
	/* Requests of one link that may be unanswered, so that a take-back can tell the user path about each. */
	LOG_LEN = 64,
	/* Buckets of a histogram of latencies: the last has all that do not fit the others. */
	LATENCY_BUCKETS = 32,
	/* Requests walked in one run of the program; the rest of a send gets another run. */
	RUN_REQUESTS = 32,
	/* Messages walked in one run of the program; the rest of a send gets another run. */
	RUN_MESSAGES = 256,
	/* Named prepared statements met in one run of the program; the rest of a send gets another run. */
	RUN_NAMES = 8,
	/* Longest name of a prepared statement with its terminating zero; longer ones stay on the user path. */
	NAME_LEN = 60,
	/* Longest request with names that is kept, in bytes. */
	SENT_LEN = 256,
	/* Prepared statements of a pool, by id, that the kernel path knows. */
	STATEMENTS = 2048,
	STATEMENT_WORDS = 32,
	/* Bytes walked in one run of the program: offsets into a packet must have a small known range. */
	RUN_BYTES = 0x7fff,
};

/* No chunk: in `pool.chunk`. */
#define CHUNK_NONE 0xffffffffu

/*
 * A server's word, the only truth about a link. A word without a client is a server that is idle or on the user path.
 */
#define WORD_CLIENT 0x0000000000ffffffull	/* slot of the linked client + 1, 0 = none */
#define WORD_OWED 0x000000ffff000000ull		/* ReadyForQuery messages owed */
#define WORD_OWED_ONE 0x0000000001000000ull
#define WORD_USER 0x0000010000000000ull		/* taken back: the user path owns the pair */
#define WORD_OPEN 0x0000020000000000ull		/* an extended query was begun and its Sync was not sent */
#define WORD_RETURN 0x0000040000000000ull	/* when released, it goes to user space (too old, reconnect, reload) */
#define WORD_CANCEL 0x0000080000000000ull	/* being_canceled: as WORD_RETURN, while a cancel request is in flight */
#define WORD_REPLY 0x0000100000000000ull	/* which of `reply` counts */
#define WORD_REQUEST 0x0000200000000000ull	/* which of `request` counts */
#define WORD_GENERATION 0xffff000000000000ull	/* which of the slot's successive servers this is */

/* In `server.psock`: the server's process blocks in its receives, so the kernel path cannot follow it. */
#define PSOCK_UNFIT 1ull

/* How long a waiting client may be overtaken: a few times the slice that the scheduler gives a process. Measured with
 * pgbench -S on 20 servers, requests that had to go through user space: with 0, 1, 4 and 10 ms 17, 8, 6 and 6 % of 32
 * clients', 50, 35, 17 and 8 % of 100 clients'. */
#define OVERTAKE_NS 10000000ull

/* Who serves a client. The programs change KERNEL to USER, user space changes USER to KERNEL. */
enum owner {
	OWNER_USER = 0,
	OWNER_KERNEL = 1,
};

enum pool_flags {
	POOL_ENABLED = 1,	/* the kernel path may link its clients */
	POOL_PAUSED = 2,	/* PAUSE: nobody is linked, servers come back to user space */
	POOL_SESSION = 4,	/* session pooling: a server is kept until its client leaves */
	POOL_NO_QUERY = 8,	/* disable_pqexec */
	POOL_PREPARED = 16,	/* prepared statements have other names on servers than with clients */
	POOL_COMMANDS = 32,	/* LISTEN, PREPARE and the like are carried out by user space, and so no server's notification is a
				 * client's */
};

/* Why the kernel path left bytes to the user path, or gave a pair back. */
enum reason {
	REASON_NONE,
	REASON_DISABLED,	/* the pool is not for the kernel path, or paused */
	REASON_USER_BUSY,	/* the user path is not done with the bytes before these */
	REASON_UNREAD,		/* the client has not read what the user path sent */
	REASON_IN_FLIGHT,	/* the last reply is still being delivered */
	REASON_WAITING,		/* other clients wait for a server */
	REASON_NO_SERVER,	/* no idle server, or none with the client's parameters */
	REASON_REQUEST,		/* a request that is not for the kernel path */
	REASON_NAMED,		/* a named portal, or a prepared statement that the kernel path does not know */
	REASON_COMMAND,		/* a query that may be a command which user space carries out */
	REASON_STATEMENT,	/* the server, or none that is idle, has the prepared statement */
	REASON_SPLIT,		/* the start of a request is cut by the end of a send */
	REASON_REQUEST_LONG,	/* a request beyond the limit */
	REASON_PIPELINE,	/* too many requests unanswered */
	REASON_TERMINATE,	/* the client says goodbye */
	REASON_REPLY,		/* a reply that is not for the kernel path */
	REASON_PARAMETER,	/* a parameter was reported */
	REASON_COPY,		/* COPY */
	REASON_REPLY_LONG,	/* the client has too much to read */
	REASON_RETURN,		/* the server must go to user space: it is to be closed, or a cancel request is on its way */
	REASON_GONE,		/* the other end is gone */
	REASON_RACE,		/* too much contention on a word */
	REASON_BLOCKING,	/* the application's socket blocks: see is_nonblocking */
	REASON_OPAQUE,		/* bytes that the program cannot see */
	REASON_SINK,		/* our socket takes nothing now, or it cannot be told whether it does */
	REASON_SHORT,		/* a socket did not take all that it was to: its sender is ended */
	REASONS,
};

/* Both ends of a captured connection: the far end's address and port, then ours. IPv4 is mapped into IPv6. */
struct tuple {
	__u8 far[16];
	__u8 near[16];
	__u16 far_port;		/* host byte order */
	__u16 near_port;
};

/* Where clients connect to; all zeros for any address. */
struct listener {
	__u8 address[16];
	__u16 port;
};

/* What is known of a captured far end before user space has given it a slot. */
struct captured {
	__u64 cookie;
	__u32 sequence;		/* write_seq at the start */
	__u32 unused;
};

/* In `slots` and `end.slot`: what a socket is, and the index of the client or server. */
#define ROLE_GATE 0x20000000u		/* with another: our own end of its connection */
#define ROLE_CLIENT 0x40000000u
#define ROLE_SERVER 0x80000000u
#define ROLE_INDEX 0x00ffffffu

/* A client's name of a prepared statement, filled up with zeros. */
struct name {
	__u32 client;		/* slot */
	char name[NAME_LEN];
};

/* What it stands for. */
struct statement {
	__u32 id;
	char name[NAME_LEN];	/* its name on servers, of the same length */
};

/* The prepared statements of a server: bits by their ids. */
struct prepared {
	__u64 has[STATEMENT_WORDS];	/* User space, while it has the server. */
	__u64 used[STATEMENT_WORDS];	/* since user space last asked. The client's tap. */
	__u64 used_words;		/* bit n = there is something in used[n mod 64]. The client's tap. */
};

/* Replies of a link: where the stream stands. Written by the server's tap. */
struct reply_state {
	__u32 rest;		/* bytes of the current message still to come */
	__u32 answers;		/* replies to extended requests since the last ReadyForQuery */
	__u8 header[6];		/* the part of a header (and status) that came */
	__u8 header_len;
	__u8 failed;		/* an ErrorResponse came since the last ReadyForQuery */
	__u8 status;		/* transaction status of the last ReadyForQuery */
	__u8 unused[7];
};

/* Requests of a link. Written by the client's tap. */
struct request_state {
	__u32 rest;		/* bytes of the current message still to come */
	__u32 sent;		/* requests of the link; index into `log` */
	__u32 base;		/* `sent` when the server last owed nothing */
	__u32 bytes;		/* bytes since the server last owed nothing */
};

/* A redirect to the egress of one of our sockets: see fell_short. */
struct sink_record {
	__u64 address;		/* of the socket, in the kernel; 0 = none */
	__u64 cookie;
	__u32 sequence;		/* its write_seq when it has taken all */
	__u32 len;		/* bytes that it was to take */
};

/*
 * The two taps of a pair often run on different processors: what both of them write shares as few cache lines as can be,
 * and what only one of them writes has its own.
 */
struct server {
	/* Seldom written: */
	__u64 cookie;		/* PostgreSQL's end; 0 = it is not captured. User space. */
	__u64 gate;		/* cookie of our end. User space. */
	__u64 psock;		/* kernel address, for in_flight. The server's tap. */
	__u64 psock_cookie;	/* of the end that has it: the address outlives it. The server's tap. */
	__u64 params;		/* parameter set. User space, while it has the server. */
	__u32 pool;
	__u32 slot;		/* in the pool */
	__u32 remote;		/* its own end is not captured: requests go out through ours. User space. */
	__u32 named;		/* the link has used prepared statements by name. Whoever links, then the client's tap. */
	__u32 push;		/* bytes of requests that our end is about to send. User space; its tap takes it. */
	__u32 unused;
	/* Of both taps: */
	__u64 word;
	__u64 client_cookie;	/* the linked client's end. Whoever links. */
	__u64 request_ns;	/* start of the query. The client's tap; the server's at a ReadyForQuery. */
	__u64 xact_ns;		/* start of the transaction. The same. */
	struct request_state request[2];
	/* The server's tap. Where no client is linked, reply[0] is that of a new link. */
	struct reply_state reply[2];
	__u64 released_ns;	/* CLOCK_MONOTONIC of the last ReadyForQuery, before the word says so. */
	/* Counters, never set back: */
	__u64 sent;
	__u64 queries;
	__u64 xacts;
	__u64 query_time_ns;
	__u64 xact_time_ns;
	struct sink_record sink;	/* where the last reply went, if out through our socket. */
	/* The client's tap: */
	__u8 log[LOG_LEN] __attribute__((aligned(64)));	/* type bytes of requests */
	/* Counters, never set back: */
	__u64 links;
	__u64 received;
	__u64 requests;		/* answered by ReadyForQuery */
	__u64 binds;		/* of named statements, where they are looked after */
} __attribute__((aligned(64)));

struct client {
	/* Seldom written: */
	__u64 cookie;		/* the end that gets its replies; 0 = slot is free. User space. */
	__u64 params;		/* parameter set. User space, while it has the client. */
	__u64 gate;		/* cookie of our end. User space. */
	__u64 gate_psock;	/* kernel address, once replies were pushed, for is_sending. Our end's tap. */
	__u64 psock;		/* kernel address, once its own tap has looked at it. Its tap. */
	__u32 read;		/* bytes the user path has read from it, from the start, modulo 2^32. User space. */
	__u32 sequence;		/* write_seq at the start. User space. */
	__u32 pool;
	__u32 owner;		/* enum owner */
	__u32 remote;		/* its own end is not captured: replies go out through ours. User space. */
	__u32 reason;		/* enum reason: why it was last left to the user path */
	/* Of both taps: */
	__u64 request_ns;	/* CLOCK_MONOTONIC of its last request */
	__u64 released_ns;	/* and of its last release. The server's tap. */
	__u64 written;		/* bytes the user path has sent it, from the start. User space, and the tap of our end. */
	__u32 server;		/* index + 1 of the server it was last linked to: a hint, the word decides */
	__u32 last_server;	/* index + 1 of the server whose reply may still be in flight to it */
	__u32 unread;		/* bytes of replies since it had read everything */
	__u32 settled;		/* all that went through user space so far is done with. Its tap; user space clears it. */
	__u32 pushed;		/* linked by user space, which sent the request: at the release it is KERNEL's again */
	__u32 push;		/* bytes of replies that our end is about to send. User space; its tap takes it. */
	struct sink_record sink;	/* where its last request went, if out through our socket. Its tap. */
	/* All that its server was sent since it was idle, if that is whole, short, and with names: it may have to be sent once
	 * more. Whoever links, then its tap. */
	__u32 sent_len;		/* 0 = it is not here */
	__u8 sent[SENT_LEN];
} __attribute__((aligned(64)));

struct pool {
	__u64 idle[POOL_CHUNKS];	/* bit = server may be claimed, by either path */
	__u64 lendable[POOL_CHUNKS];	/* bit = by the kernel path, too */
	__u32 chunk[POOL_CHUNKS];	/* where the servers of each chunk begin, in chunks */
	__u64 waiting_since;		/* CLOCK_MONOTONIC: the first of the clients that wait for a server; 0 = none waits */
	__u32 flags;			/* enum pool_flags */
	__u32 reply_limit;		/* kernel_path_reply_limit */
	__u32 packet_len_max;		/* max_packet_size */
	__u32 unused;
	/* Queries by the time that the server worked on them: bucket n has those of 2^(n-1) up to 2^n times 1024 ns, the
	 * first one those below 1024 ns. The servers' taps. */
	__u64 latency[LATENCY_BUCKETS];
} __attribute__((aligned(64)));

struct totals {
	__u64 reasons[REASONS];		/* how often each */
	__u64 captured;			/* far ends captured */
	__u64 capture_failed;		/* far ends that belong to another proxy, or for which there was no room */
};

/* Argument of the program ask_drained. */
struct drained_args {
	__u32 slot;		/* of a client or server, with its role */
	__u32 answer;		/* 1 = it has read all that was redirected to it */
};

/* What became of the last reply that a server sent on the kernel path. */
enum delivery {
	DELIVERY_DONE,
	DELIVERY_IN_FLIGHT,	/* its send may be under way */
	DELIVERY_SHORT,		/* a socket did not take all of it: the rest is for nobody else */
};

/* Argument of the program ask_delivery. */
struct delivery_args {
	__u32 server;
	__u32 answer;		/* enum delivery */
};

#endif
