/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Capturing far ends: a sock_ops program on the root cgroup sees each TCP connection of this host come up. The
 * application's end of a connection to one of our listeners, and PostgreSQL's end of a connection that we announced,
 * are put into `socks`, from where on `tap` sees what they send.
 *
 * Only sockets of our own network namespace are captured: within one namespace the kernel keeps address and port pairs
 * unique, while another one, which any user can make, could forge ours.
 */
#ifndef TIGGER_CAPTURE_BPF_H
#define TIGGER_CAPTURE_BPF_H

/* Our network namespace (SO_NETNS_COOKIE). */
const volatile __u64 our_netns = 0;

static __always_inline void map_ipv4(__u8 to[16], __u32 address)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = address;
}

static __always_inline void copy_ipv6(__u8 to[16], __u32 *from)
{
	__u32 *words = (__u32 *)to;

	words[0] = READ_ONCE(from[0]);
	words[1] = READ_ONCE(from[1]);
	words[2] = READ_ONCE(from[2]);
	words[3] = READ_ONCE(from[3]);
}

/* The connection as its far end, whose program this is, sees it. */
static __always_inline int read_tuple(struct bpf_sock_ops *ops, struct tuple *t)
{
	__builtin_memset(t, 0, sizeof(*t));
	/* READ_ONCE, because the verifier wants each field of the context read as it is declared. */
	if (ops->family == AF_INET) {
		map_ipv4(t->far, READ_ONCE(ops->local_ip4));
		map_ipv4(t->near, READ_ONCE(ops->remote_ip4));
	} else if (ops->family == AF_INET6) {
		copy_ipv6(t->far, ops->local_ip6);
		copy_ipv6(t->near, ops->remote_ip6);
	} else {
		return 0;
	}
	t->far_port = ops->local_port;
	t->near_port = bpf_ntohl(ops->remote_port);
	return 1;
}

static __always_inline int is_ours(struct tuple *t)
{
	struct listener key = { .port = t->near_port };

	if (bpf_map_lookup_elem(&listeners, &key))
		return 1;
	__builtin_memcpy(key.address, t->near, sizeof(key.address));
	return bpf_map_lookup_elem(&listeners, &key) != NULL;
}

static __always_inline void capture(struct bpf_sock_ops *ops, struct tuple *t)
{
	struct totals *total = totals_at_all();
	struct captured captured = {};
	struct bpf_sock *sk = ops->sk;
	struct tcp_sock *tcp;
	struct end *end;
	__u64 cookie;

	if (!sk || !total)
		return;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return;
	/* A socket that is accepted has no file yet: the server's tap looks later. */
	if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && !is_nonblocking(tcp))
		return;
	captured.sequence = tcp->write_seq;
	cookie = bpf_get_socket_cookie(ops);
	captured.cookie = cookie;
	end = bpf_sk_storage_get(&ends, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!end)
		goto failed;
	end->cookie = cookie;
	/* Fails where another proxy has its program on this socket. */
	if (bpf_sock_hash_update(ops, &socks, &cookie, BPF_NOEXIST))
		goto failed;
	if (bpf_map_update_elem(&found, t, &captured, BPF_ANY))
		goto failed;
	__sync_fetch_and_add(&total->captured, 1);
	return;
failed:
	__sync_fetch_and_add(&total->capture_failed, 1);
}

SEC("sockops")
int capture_far_ends(struct bpf_sock_ops *ops)
{
	struct tuple t;

	switch (ops->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (bpf_get_netns_cookie(ops) == our_netns && read_tuple(ops, &t) && is_ours(&t))
			capture(ops, &t);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		if (bpf_get_netns_cookie(ops) == our_netns && read_tuple(ops, &t) &&
		    bpf_map_lookup_elem(&expected, &t))
			capture(ops, &t);
		break;
	}
	return 1;
}

#endif
