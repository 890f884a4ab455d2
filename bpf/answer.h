/* Answers that a network gives by itself, made in place out of the question: ARP, neighbour solicitation, echo. */
#ifndef MALHA_ANSWER_H
#define MALHA_ANSWER_H

#include "packet.h"

/* The uapi headers of these drag in the C library's. */
#define ARPOP_REQUEST 1
#define ARPOP_REPLY 2
#define ICMP_ECHOREPLY 0
#define ICMP_ECHO 8
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define ICMP_CHECKSUM 2 /* offset, both versions */

struct arp4 {
	__be16 hrd, pro;
	__u8 hln, pln;
	__be16 op;
	__u8 sha[6];
	__u8 spa[4];
	__u8 tha[6];
	__u8 tpa[4];
} __attribute__((packed));

struct arp_frame {
	struct ethhdr eth;
	struct arp4 arp;
} __attribute__((packed));

struct nd_message {
	__u8 type, code;
	__u16 csum;
	__u32 flags;
	struct addr target;
	__u8 opt_type, opt_len;
	__u8 opt_mac[6];
} __attribute__((packed));

#define ND_SOLICIT 135
#define ND_ADVERT 136
#define ND_SOLICITED_OVERRIDE 0x60000000
#define ND_TARGET_MAC 2

static __always_inline int back(struct __sk_buff *skb)
{
	count(PATH_ANSWERED, skb->len);
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline int owns(const struct link *l, const struct addr *a)
{
	return addr_eq(&l->addrs[0], a) || addr_eq(&l->addrs[1], a) || addr_eq(&l->addrs[2], a) ||
	       addr_eq(&l->addrs[3], a);
}

/* On the ingress network a container learns of the gateway and of nobody else. */
static __always_inline struct endpoint *resolvable(const struct link *l, const struct addr *a)
{
	struct endpoint *e = endpoint_of(l->vni, a);

	return e && l->ingress && e->kind != KIND_GATEWAY ? 0 : e;
}

static __noinline int answer_arp(struct __sk_buff *skb, struct link *l)
{
	struct arp_frame f;
	struct endpoint *e;
	struct addr sender, target;
	__u32 v4;

	if (!l)
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, 0, &f, sizeof(f)))
		return drop(skb, l->vni, DROP_MALFORMED);
	__builtin_memcpy(&v4, f.arp.spa, 4);
	sender = addr4(v4);
	if (!mac_eq(f.arp.sha, l->mac) || (v4 && !owns(l, &sender)))
		return drop(skb, l->vni, DROP_SPOOFED_ARP);
	__builtin_memcpy(&v4, f.arp.tpa, 4);
	target = addr4(v4);
	if (f.arp.op != bpf_htons(ARPOP_REQUEST) || owns(l, &target))
		return TC_ACT_SHOT; /* announcements and probes of its own address: nobody needs them */
	e = resolvable(l, &target);
	if (!e)
		return drop(skb, l->vni, l->ingress ? DROP_INGRESS_ISOLATED : DROP_UNKNOWN_DESTINATION);

	f.arp.op = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(f.arp.tha, f.arp.sha, 6);
	__builtin_memcpy(&v4, f.arp.spa, 4);
	__builtin_memcpy(f.arp.spa, f.arp.tpa, 4);
	__builtin_memcpy(f.arp.tpa, &v4, 4);
	__builtin_memcpy(f.arp.sha, e->mac, 6);
	__builtin_memcpy(f.eth.h_dest, f.eth.h_source, 6);
	__builtin_memcpy(f.eth.h_source, e->mac, 6);
	bpf_skb_store_bytes(skb, 0, &f, sizeof(f), 0);
	return back(skb);
}

static __always_inline void swap_macs(struct __sk_buff *skb)
{
	__u8 macs[12], swapped[12];

	bpf_skb_load_bytes(skb, 0, macs, 12);
	__builtin_memcpy(swapped, macs + 6, 6);
	__builtin_memcpy(swapped + 6, macs, 6);
	bpf_skb_store_bytes(skb, 0, swapped, 12, 0);
}

/* Echo to a gateway, balancer or VIP. Swapping the addresses changes no checksum, the type does. */
static __noinline int answer_echo4(struct __sk_buff *skb, __u32 vni)
{
	struct iphdr ip;
	__u32 l4;
	__u8 type, reply = ICMP_ECHOREPLY;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return drop(skb, vni, DROP_MALFORMED);
	l4 = ETH_HLEN + ip.ihl * 4;
	if (ip.protocol != IPPROTO_ICMP || (ip.frag_off & bpf_htons(0x1fff)) ||
	    bpf_skb_load_bytes(skb, l4, &type, 1) || type != ICMP_ECHO)
		return drop(skb, vni, DROP_NOT_A_CONTAINER);
	swap_macs(skb);
	bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &ip.daddr, 4, 0);
	bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &ip.saddr, 4, 0);
	bpf_l4_csum_replace(skb, l4 + ICMP_CHECKSUM, bpf_htons(ICMP_ECHO << 8),
			    bpf_htons(ICMP_ECHOREPLY << 8), 2);
	bpf_skb_store_bytes(skb, l4, &reply, 1, 0);
	return back(skb);
}

static __noinline int answer_echo6(struct __sk_buff *skb, __u32 vni)
{
	struct ipv6hdr ip;
	__u32 l4 = ETH_HLEN + sizeof(ip);
	__u8 type, reply = ICMPV6_ECHO_REPLY;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return drop(skb, vni, DROP_MALFORMED);
	if (ip.nexthdr != IPPROTO_ICMPV6 || bpf_skb_load_bytes(skb, l4, &type, 1) || type != ICMPV6_ECHO_REQUEST)
		return drop(skb, vni, DROP_NOT_A_CONTAINER);
	swap_macs(skb);
	bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), &ip.daddr, 16, 0);
	bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), &ip.saddr, 16, 0);
	bpf_l4_csum_replace(skb, l4 + ICMP_CHECKSUM, bpf_htons(ICMPV6_ECHO_REQUEST << 8),
			    bpf_htons(ICMPV6_ECHO_REPLY << 8), 2);
	bpf_skb_store_bytes(skb, l4, &reply, 1, 0);
	return back(skb);
}

/* Answers a solicitation for a known address; everything else that is multicast ends here. */
static __noinline int answer_nd(struct __sk_buff *skb, struct link *l)
{
	struct nd_message m;
	struct ipv6hdr ip;
	struct endpoint *e;
	struct addr src;
	__u8 macs[12];
	__s64 sum;

	if (!l)
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.nexthdr != IPPROTO_ICMPV6 ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), &m, sizeof(m)) || m.type != ND_SOLICIT)
		return drop(skb, l->vni, DROP_MULTICAST);
	__builtin_memcpy(&src, &ip.saddr, sizeof(src));
	struct addr target = m.target;
	if (addr_is_zero(&src) || owns(l, &target))
		return TC_ACT_SHOT; /* duplicate address detection: silence means that the address is free */
	e = resolvable(l, &target);
	if (!e)
		return drop(skb, l->vni, l->ingress ? DROP_INGRESS_ISOLATED : DROP_UNKNOWN_DESTINATION);

	m.type = ND_ADVERT;
	m.code = 0;
	m.csum = 0;
	m.flags = bpf_htonl(ND_SOLICITED_OVERRIDE);
	m.opt_type = ND_TARGET_MAC;
	m.opt_len = 1;
	__builtin_memcpy(m.opt_mac, e->mac, 6);
	sum = bpf_csum_diff(0, 0, (__be32 *)&m, sizeof(m), bpf_htonl(sizeof(m)) + bpf_htonl(IPPROTO_ICMPV6));
	sum = bpf_csum_diff(0, 0, (__be32 *)&target, sizeof(target), sum);
	sum = bpf_csum_diff(0, 0, (__be32 *)&src, sizeof(src), sum);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	m.csum = ~sum & 0xffff;

	__builtin_memcpy(macs, l->mac, 6);
	__builtin_memcpy(macs + 6, e->mac, 6);
	bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
	bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), &target, 16, 0);
	bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), &src, 16, 0);
	bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &m, sizeof(m), 0);
	return back(skb);
}

#endif
