/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The walker: finds message borders in what one end sends, and what each message means for a link. Twin of
 * proto/src/wire/frame.rs, with which it is fuzzed. It does not care which hook calls it, and compiles on the host.
 *
 * A message is a type byte and a length that counts itself but not the type (PostgreSQL manual, section 55.1.1). One
 * step handles one message, or one byte of a header that is cut by the end of a send. A step never guesses: where it
 * stops, `at` is a place at which the stream may be cut, and `reason` says why.
 */
#ifndef TIGGER_FRAME_BPF_H
#define TIGGER_FRAME_BPF_H

#define HEADER_LEN 5
/* ReadyForQuery as a whole. */
#define READY_LEN 6
/* The length field is a signed number in PostgreSQL. */
#define MESSAGE_LEN_MAX 0x7fffffffu

/* What a walk goes through, set up by its caller. */
struct walk {
	__u32 at;		/* bytes walked */
	__u32 len;		/* bytes there are */
	__u32 rest;		/* of the current message, beyond `at` */
	__u32 reason;		/* why it stopped before `len`; REASON_NONE = it did not, or for another run */
};

struct request_walk {
	struct walk walk;
	__u32 flags;		/* enum pool_flags */
	__u32 len_max;		/* longest message */
	__u32 count;		/* requests met */
	__u32 enders;		/* those of them that are answered by ReadyForQuery */
	__u32 open;		/* an extended query is begun and not ended */
	__u8 kinds[RUN_REQUESTS];
	__u32 client;		/* slot of who sends them */
	__u32 named;		/* prepared statements met: */
	__u32 binds;		/* those of them that are bound */
	__u32 name_at[RUN_NAMES];	/* where the name is */
	struct statement statements[RUN_NAMES];	/* what it stands for */
};

/* What is known of the prepared statement that a request names. */
enum naming {
	UNNAMED,		/* it names none, or names are the same on servers */
	NAMED,			/* it is the next one of `statements` */
	NAME_UNKNOWN,
	NAME_COMMAND,		/* a query, or a statement without a name, that may be a command */
};

/* Bytes of a query's text that are looked at to see whether it is a command. */
#define COMMAND_HEAD 32

struct reply_walk {
	struct walk walk;
	struct reply_state state;
	__u32 len_max;		/* longest message */
	__u32 owed;
	__u32 last_to_user;	/* a ReadyForQuery that leaves nothing owed is for the user path */
	__u32 prepared;		/* so is the end of a command that removes all prepared statements */
	__u32 named;		/* and an error: it may be that a prepared statement is out of date */
	__u32 shared;		/* and a notification: the server has one client after the other, and it is nobody's */
	__u32 readies;		/* ReadyForQuery met */
	__u32 ends;		/* those of them with status I */
};

static __always_inline __u32 message_len(const __u8 *at)
{
	return (__u32)at[0] << 24 | (__u32)at[1] << 16 | (__u32)at[2] << 8 | at[3];
}

/* Takes what is there of the current message; true if that is all there is. */
static __always_inline int walk_rest(struct walk *walk)
{
	__u32 there = walk->len - walk->at;
	__u32 n = walk->rest < there ? walk->rest : there;

	walk->rest -= n;
	walk->at += n;
	return walk->at >= walk->len;
}

static __always_inline int walk_stop(struct walk *walk, __u32 reason)
{
	walk->reason = reason;
	return 1;
}

/* Bytes of a request that must be seen before it can be judged: the header, and for some the start of the body, where
 * the names are. 0 for a type that is not for the kernel path. */
static __always_inline __u32 request_need(__u8 kind)
{
	switch (kind) {
	case 'Q': case 'S': case 'H': return HEADER_LEN;
	case 'P': case 'E': return HEADER_LEN + 1;
	case 'B': case 'D': case 'C': return HEADER_LEN + 2;
	default: return 0;
	}
}

/* Whether the request at `bytes` uses a named prepared statement, whose name is what its body has from the second byte
 * on. */
static __always_inline int uses_name(__u32 flags, const __u8 *bytes, __u32 there)
{
	if (!(flags & POOL_PREPARED) || there < HEADER_LEN + 2 || !bytes[6])
		return 0;
	return (bytes[0] == 'B' && !bytes[5]) || (bytes[0] == 'D' && bytes[5] == 'S');
}

static __always_inline int is_space(__u8 c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Whether a query that begins with this may be a command that user space carries out. */
static __always_inline int may_begin_command(__u8 c)
{
	__u8 lower = c | 0x20;

	return is_space(c) || lower == 'l' || lower == 'u' || lower == 'p' || lower == 'e' || lower == 'd';
}

/* Where the text is in the request at `bytes`, of which `there` are to be seen, if it may be a command; or 0. Those that are
 * prepared under a name are the user path's anyway. */
static __always_inline __u32 command_at(__u32 flags, const __u8 *bytes, __u32 there)
{
	if (!(flags & POOL_COMMANDS))
		return 0;
	if (bytes[0] == 'Q' && there > HEADER_LEN && may_begin_command(bytes[5]))
		return HEADER_LEN;
	if (bytes[0] == 'P' && there > HEADER_LEN + 1 && !bytes[5] && may_begin_command(bytes[6]))
		return HEADER_LEN + 1;
	return 0;
}

#define LETTERS(a, b, c) ((a) << 16 | (b) << 8 | (c))

/* Whether a query whose text begins with `text`, of which `there` bytes are to be seen, may be a command that user space
 * carries out, see proto/src/client/command.rs: LISTEN, UNLISTEN, PREPARE, EXECUTE, DEALLOCATE. */
static __always_inline int may_be_command(const __u8 *text, __u32 there)
{
	for (__u32 i = 0; i < COMMAND_HEAD - 2; i++) {
		if (i + 3 > there)
			break;
		if (is_space(text[i]))
			continue;
		switch (LETTERS(text[i] | 0x20, text[i + 1] | 0x20, text[i + 2] | 0x20)) {
		case LETTERS('l', 'i', 's'): case LETTERS('u', 'n', 'l'): case LETTERS('p', 'r', 'e'):
		case LETTERS('e', 'x', 'e'): case LETTERS('d', 'e', 'a'):
			return 1;
		default:
			return 0;
		}
	}
	/* That is not to be seen. */
	return 1;
}

/*
 * One request at `bytes`, of which `there` are to be seen. Returns 1 at the end of the walk.
 */
static __always_inline int request_step(struct request_walk *w, const __u8 *bytes, __u32 there, enum naming naming)
{
	__u32 need, len, i;
	__u8 kind, named = 0;

	kind = bytes[0];
	need = request_need(kind);
	if (!need)
		return walk_stop(&w->walk, kind == 'X' ? REASON_TERMINATE : REASON_REQUEST);
	/* A send may end in the middle of a message, but not before it is known which. */
	if (there < need)
		return walk_stop(&w->walk, REASON_SPLIT);
	len = message_len(bytes + 1);
	if (len < 4 || len > MESSAGE_LEN_MAX)
		return walk_stop(&w->walk, REASON_REQUEST);
	if (len > w->len_max)
		return walk_stop(&w->walk, REASON_REQUEST_LONG);
	/* Of what may be a command it must be seen whether it is. */
	if ((kind == 'Q' || kind == 'P') && w->flags & POOL_COMMANDS) {
		if (naming == NAME_COMMAND)
			return walk_stop(&w->walk, REASON_COMMAND);
		if (there <= need && len + 1 > need)
			return walk_stop(&w->walk, REASON_SPLIT);
	}
	if (len + 1 < need || ((kind == 'S' || kind == 'H') && len != 4))
		return walk_stop(&w->walk, REASON_REQUEST);
	/* A Query before the Sync of an extended query is not answered if that fails: who counts could not know. */
	if (kind == 'Q' && (w->flags & POOL_NO_QUERY || w->open))
		return walk_stop(&w->walk, REASON_REQUEST);
	if (!(w->flags & POOL_SESSION)) {
		if (kind == 'P' || kind == 'E')
			named = bytes[5];
		else if (kind == 'B')
			named = bytes[5] | bytes[6];
		else if (kind == 'D' || kind == 'C')
			named = bytes[6];
		if (named && naming != NAMED)
			return walk_stop(&w->walk, REASON_NAMED);
	}
	if (kind != 'H') {
		i = w->count;
		if (i >= RUN_REQUESTS)
			return 1;
		w->kinds[i & (RUN_REQUESTS - 1)] = kind;
		w->count = i + 1;
		if (naming == NAMED) {
			w->named++;
			w->binds += kind == 'B';
		}
		if (kind == 'Q' || kind == 'S') {
			w->enders++;
			w->open = 0;
		} else {
			w->open = 1;
		}
	}
	w->walk.rest = len + 1;
	return walk_rest(&w->walk);
}

/* Why a reply of this type is not for the kernel path; REASON_NONE if it is. */
static __always_inline __u32 reply_reason(__u8 kind)
{
	switch (kind) {
	case '1': case '2': case '3': case 'n': case 't': case 'T': case 'D': case 'C': case 'I': case 's': case 'E':
	case 'N': case 'A': case 'Z':
		return REASON_NONE;
	case 'S': return REASON_PARAMETER;
	case 'G': case 'H': case 'W': case 'd': case 'c': return REASON_COPY;
	default: return REASON_REPLY;
	}
}

/* Whether a CommandComplete, of which `tag` is the first byte, may be that of DISCARD ALL or DEALLOCATE ALL: a tag of 11 or
 * 14 bytes. */
static __always_inline int may_end_all(struct reply_walk *w, __u8 kind, __u32 len, __u8 tag)
{
	return w->prepared && kind == 'C' && tag == 'D' && (len == 16 || len == 19);
}

/* Judges the start of a reply by its type; true if it must not be redirected. */
static __always_inline int reply_refused(struct reply_walk *w, __u8 kind)
{
	__u32 reason = reply_reason(kind);

	/* What nothing asked for is news for user space: a server that is about to leave, a notification. */
	if (!reason && !w->owed)
		reason = REASON_REPLY;
	if (!reason && kind == 'E' && w->named)
		reason = REASON_REPLY;
	if (!reason && kind == 'A' && w->shared)
		reason = REASON_REPLY;
	if (!reason && kind == 'Z' && w->owed == 1 && w->last_to_user)
		reason = REASON_RETURN;
	if (!reason)
		return 0;
	w->walk.reason = reason;
	return 1;
}

/* Takes note of a reply whose header (and status, if it is ReadyForQuery) is known; true at a broken one. */
static __always_inline int reply_met(struct reply_walk *w, __u8 kind, __u32 len, __u8 status)
{
	if (len < 4 || len > MESSAGE_LEN_MAX || len > w->len_max)
		return 1;
	switch (kind) {
	case 'Z':
		if (len != 5 || (status != 'I' && status != 'T' && status != 'E'))
			return 1;
		w->owed--;
		w->readies++;
		w->ends += status == 'I';
		w->state.status = status;
		w->state.answers = 0;
		w->state.failed = 0;
		break;
	case 'E':
		w->state.failed = 1;
		break;
	case '1': case '2': case '3': case 'n': case 'T': case 'C': case 'I': case 's':
		w->state.answers++;
		break;
	default:
		break;
	}
	return 0;
}

/*
 * One reply at `bytes`, of which `there` (at least one) are to be seen, or one byte of a header. Returns 1 at the end
 * of the walk.
 */
static __always_inline int reply_step(struct reply_walk *w, const __u8 *bytes, __u32 there)
{
	__u32 have = w->state.header_len, need, len;
	__u8 kind = have ? w->state.header[0] : bytes[0];

	if (!have) {
		if (reply_refused(w, kind))
			return 1;
		if (there >= READY_LEN) {
			len = message_len(bytes + 1);
			if (may_end_all(w, kind, len, bytes[5]) || reply_met(w, kind, len, bytes[5]))
				return walk_stop(&w->walk, REASON_REPLY);
			w->walk.rest = len + 1;
			return walk_rest(&w->walk);
		}
	}
	/* Near the end of a send: byte by byte. */
	if (have >= READY_LEN)
		return walk_stop(&w->walk, REASON_REPLY);
	w->state.header[have] = bytes[0];
	have++;
	w->walk.at++;
	need = kind == 'Z' ? READY_LEN : HEADER_LEN;
	if (have < need) {
		w->state.header_len = have;
		return w->walk.at >= w->walk.len;
	}
	w->state.header_len = 0;
	len = message_len(w->state.header + 1);
	/* Here the tag is not seen. */
	if (may_end_all(w, kind, len, 'D') || reply_met(w, kind, len, w->state.header[5])) {
		/* Its first bytes may be with the client already: the user path goes on from there, or says goodbye to both. */
		w->state.header_len = have - 1;
		w->walk.at--;
		return walk_stop(&w->walk, REASON_REPLY);
	}
	w->walk.rest = len + 1 - need;
	return walk_rest(&w->walk);
}

#endif
