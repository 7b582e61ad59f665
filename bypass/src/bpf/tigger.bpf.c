// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The programs of the kernel path, one header for each hook. intf.h is their contract with user space. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#define AF_INET 2
#define AF_INET6 10

#include "intf.h"
#include "kernel.bpf.h"
#include "frame.bpf.h"
#include "maps.bpf.h"
#include "link.bpf.h"
#include "capture.bpf.h"
#include "tap.bpf.h"
#include "requests.bpf.h"
#include "replies.bpf.h"

SEC("sk_msg")
int tap(struct sk_msg_md *msg)
{
	struct tap tap = { .msg = msg };
	struct bpf_sock *sk = msg->sk;
	struct end *end;
	__u32 slot, *known;

	if (!sk)
		return SK_PASS;
	end = bpf_sk_storage_get(&ends, sk, 0, 0);
	if (!end)
		return SK_PASS;
	tap.end = end;
	tap.was_cut = end->cut;
	end->cut = 0;
	slot = end->slot;
	if (!slot) {
		__u64 cookie = end->cookie;

		known = bpf_map_lookup_elem(&slots, &cookie);
		if (!known)
			return pass(&tap);
		slot = *known;
		end->slot = slot;
	}
	if (slot & ROLE_SERVER)
		return tap_server(&tap, slot & ROLE_INDEX);
	return tap_client(&tap, slot & ROLE_INDEX);
}

/* Helpers that only GPL programs may call are used: bpf_probe_read_kernel. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
