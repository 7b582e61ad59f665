/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The few fields of kernel structures that the programs read. CO-RE relocates them when the programs are loaded, so
 * that one object fits all kernels; names and meaning as in Linux 5.17 and later.
 */
#ifndef TIGGER_KERNEL_BPF_H
#define TIGGER_KERNEL_BPF_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock;

struct list_head {
	struct list_head *next;
};

struct refcount_struct {
	struct {
		int counter;
	} refs;
};

/* include/linux/skmsg.h: what a socket in a sockmap has. */
struct sk_psock {
	struct sock *sk;
	struct list_head ingress_msg;
	struct refcount_struct refcnt;
};

struct file {
	unsigned int f_flags;
};

struct socket {
	struct file *file;
};

struct proto {
	unsigned long *memory_pressure;
};

struct sock_common {
	volatile unsigned char skc_state;
	struct proto *skc_prot;
	struct {
		__u64 counter;
	} skc_cookie;
};

struct sock {
	struct sock_common __sk_common;
	void *sk_user_data;
	struct socket *sk_socket;
	int sk_wmem_queued;
	int sk_sndbuf;
	int sk_err;
	__u8 sk_shutdown;
};

/* include/linux/skmsg.h: what sk_msg_md stands for. */
struct sk_msg {
	struct sock *sk_redir;
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 write_seq;
	__u32 snd_una;
	__u64 bytes_received;
};

#pragma clang attribute pop

/* include/uapi/asm-generic/fcntl.h; the same on all architectures with BPF but parisc, mips, sparc and alpha. */
#define O_NONBLOCK 04000

/* include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_CLOSE_WAIT 8
/* include/net/sock.h */
#define SEND_SHUTDOWN 2

/* Lets a program load from kernel memory at any address; where there is nothing, it gets zero (kernel/bpf/helpers.c, since
 * Linux 6.2). Costs what a load costs, where a helper call costs some 20 ns. */
extern void *bpf_rdonly_cast(const void *address, __u32 type) __ksym __weak;

/* A field of the structure of that type at an address that may have become something else. */
#define look(address, type, field)										\
	(bpf_ksym_exists(bpf_rdonly_cast) ?									\
		 READ_ONCE(((type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(type)))->field) :	\
		 BPF_CORE_READ((type *)(address), field))

/* Gives the structure behind the context (kernel/bpf/helpers.c, since Linux 6.2). */
extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;

/* include/linux/skmsg.h, SK_USER_DATA_PTRMASK of include/net/sock.h: the low bits of sk_user_data are flags. */
static __always_inline struct sk_psock *psock_of(struct tcp_sock *tcp)
{
	return (struct sk_psock *)((__u64)tcp->inet_conn.icsk_inet.sk.sk_user_data & ~7ull);
}

/*
 * Whether the process that has the socket does not block in its receives. On a socket that blocks, tcp_bpf_recvmsg
 * (net/ipv4/tcp_bpf.c) fails with EAGAIN when it is woken without data, for instance by a signal, which no application
 * expects; tcp_recvmsg would be restarted. So such sockets are left alone.
 */
static __always_inline int is_nonblocking(struct tcp_sock *tcp)
{
	struct socket *socket = tcp->inet_conn.icsk_inet.sk.sk_socket;
	struct file *file = socket ? socket->file : NULL;

	return file && file->f_flags & O_NONBLOCK;
}

#endif
