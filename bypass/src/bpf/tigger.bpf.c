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

/* Helpers that only GPL programs may call are used: bpf_probe_read_kernel. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
