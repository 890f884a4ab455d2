/* Small things that every packet program needs: addresses, counting, dropping, and the way into a container. */
#ifndef MALHA_PACKET_H
#define MALHA_PACKET_H

#include <stddef.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

#define PASS TC_ACT_UNSPEC /* "not ours": the next program, then the kernel, decides */

/* A function with a stack of its own. Not every program needs every one. All that call each other have 512 bytes together,
 * where kernels before 6.8 count 32 for each begun 32, and 32 for none. */
#define SEPARATE __attribute__((noinline, unused))

#define PACKET_HOST 0
#define IP_FRAGMENT 0x3fff /* more fragments, or an offset */
#define IP_OFFSET 0x1fff

static __always_inline struct addr addr4(__u32 v4)
{
	struct addr a = { { 0, 0, bpf_htonl(0xffff), v4 } };
	return a;
}

static __always_inline int addr_eq(const struct addr *a, const struct addr *b)
{
	return a->w[3] == b->w[3] && a->w[2] == b->w[2] && a->w[1] == b->w[1] && a->w[0] == b->w[0];
}

static __always_inline int addr_is4(const struct addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline int addr_is_zero(const struct addr *a)
{
	return !(a->w[0] | a->w[1] | a->w[2] | a->w[3]);
}

static __always_inline int mac_eq(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

static __always_inline void count(__u32 path, __u32 bytes)
{
	struct counter *c = bpf_map_lookup_elem(&traffic, &path);

	if (c) {
		c->packets++;
		c->bytes += bytes;
	}
}

/* Drops are rare, so they can afford a second, per-network count. Foreign VNIs are counted as network 0. */
static SEPARATE int drop(struct __sk_buff *skb, __u32 vni, __u32 reason)
{
	struct net_drop_key key = { vni, reason };
	struct counter *c = bpf_map_lookup_elem(&drops, &reason);
	__u64 one = 1, *n;

	if (c) {
		c->packets++;
		c->bytes += skb->len;
	}
	n = bpf_map_lookup_elem(&net_drops, &key);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&net_drops, &key, &one, BPF_NOEXIST);
	return TC_ACT_SHOT;
}

/* Makes the first `len` bytes readable through skb->data. */
static __always_inline int readable(struct __sk_buff *skb, __u32 len)
{
	if ((void *)(long)skb->data + len <= (void *)(long)skb->data_end)
		return 1;
	return skb->len >= len && bpf_skb_pull_data(skb, len) == 0;
}

/* A MAC address as a number, to be compared with another. Its bytes lie as they did, two zeros behind them. */
static __always_inline __u64 mac_at(const void *p)
{
	union {
		__u64 number;
		struct {
			__u32 first;
			__u16 second, zero;
		};
	} mac = { .first = *(const __u32 *)p, .second = *(const __u16 *)(p + 4) };

	return mac.number;
}

/* Into the container behind link `ifindex`, from the receive side of any device of this node. */
static __always_inline int into_link(struct __sk_buff *skb, __u32 ifindex, __u64 mac)
{
	void *data = (void *)(long)skb->data;

	if (data + ETH_HLEN > (void *)(long)skb->data_end || mac_at(data) != mac)
		bpf_skb_store_bytes(skb, 0, &mac, ETH_ALEN, 0);
	/* The frame was not addressed to the device it came by, and the container would refuse it for that. */
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(ifindex, 0);
}

static __always_inline int into_container(struct __sk_buff *skb, const struct endpoint *e)
{
	return into_link(skb, e->ifindex, mac_at(e->mac));
}

static __always_inline struct endpoint *endpoint_of(__u32 vni, const struct addr *a)
{
	struct endpoint_key key = { vni, *a };

	return bpf_map_lookup_elem(&endpoints, &key);
}

#endif
