/* To another node: by the kernel's VXLAN device, or past it.
 *
 * The device looks up a route for each packet and sends it through the node's own stack and its hooks. Where the daemon
 * knows the path, and the packet is a plain one that fits, it is wrapped here and handed to the uplink with its next hop;
 * the kernel's neighbour table says the rest. For what is received see arrival.h.
 */
#ifndef MALHA_TUNNEL_H
#define MALHA_TUNNEL_H

#include <linux/tcp.h>
#include <linux/udp.h>

#include "verdict.h"

/* Kernels of every age accept the key up to here; what follows was added later. */
#define TUNNEL_KEY_SIZE offsetof(struct bpf_tunnel_key, local_ipv4)

#define AF_INET 2
#define TUNNEL_TTL 64
#define VXLAN_HAS_VNI 0x08000000
#define FIRST_PORT 32768 /* of the range that the kernel's tunnels take source ports from */
#define PORTS 28232
#define ECN_MASK 3
#define ECN_CE 3
#define ECN_ECT0 2

/* What is put before a packet, and its own Ethernet header, which moves back. */
struct wrapping {
	struct iphdr ip;
	struct udphdr udp;
	__be32 flags, vni;
	struct ethhdr eth;
} __attribute__((packed));

/* All that an IP packet on the underlay has more than the frame in it. */
#define WRAPPED (sizeof(struct wrapping) - ETH_HLEN)

/* The head of a frame. */
struct plain {
	struct ethhdr eth;
	__u8 version_ihl, tos;
} __attribute__((packed));

static SEPARATE int by_device(struct __sk_buff *skb, __u32 vni, const struct addr *remote)
{
	struct bpf_tunnel_key key = {};
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	int err;

	if (!s || !remote)
		return drop(skb, vni, DROP_TUNNEL);
	key.tunnel_id = vni;
	key.tunnel_ttl = TUNNEL_TTL;
	if (addr_is4(remote)) {
		key.remote_ipv4 = bpf_ntohl(remote->w[3]);
		err = bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, BPF_F_ZERO_CSUM_TX);
	} else {
		__builtin_memcpy(key.remote_ipv6, remote->w, sizeof(remote->w));
		err = bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, BPF_F_TUNINFO_IPV6);
	}
	if (err)
		return drop(skb, vni, DROP_TUNNEL);
	return bpf_redirect(s->vxlan_ifindex, 0);
}

/* Whether each segment of an IPv4 packet, once wrapped, passes a path of this MTU in one piece. */
static __always_inline int fits(struct __sk_buff *skb, __u8 version_ihl, __u32 mtu)
{
	__u32 header = (version_ihl & 0xf) * 4;
	__u8 proto, offset;

	if (skb->len + WRAPPED > 0xffff)
		return 0;
	if (!skb->gso_size)
		return skb->len + WRAPPED <= mtu;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, protocol), &proto, 1))
		return 0;
	if (proto == IPPROTO_UDP) {
		header += sizeof(struct udphdr);
	} else if (proto == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + header + 12, &offset, 1))
			return 0;
		header += (offset >> 4) * 4;
	} else {
		return 0;
	}
	return ETH_HLEN + header + skb->gso_size + WRAPPED <= mtu;
}

static __always_inline __u16 header_sum(const void *ip)
{
	const __u16 *w = ip;
	__u32 sum = 0;
	int i;

	for (i = 0; i < 10; i++)
		sum += w[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

/* Zero where it cannot be; the packet is then as it was. */
static SEPARATE int by_path(struct __sk_buff *skb, __u32 vni, __u32 remote, const struct path *path)
{
	struct bpf_redir_neigh hop = { .nh_family = AF_INET };
	struct wrapping w = {};
	struct plain head;
	__u32 inner = skb->len, hash, ifindex;
	__u8 ecn;

	/* A VLAN tag that the container set is beside the packet, and would be one of the underlay. */
	if (!path || skb->vlan_present || bpf_skb_load_bytes(skb, 0, &head, sizeof(head)) || head.eth.h_proto != bpf_htons(ETH_P_IP) ||
	    !fits(skb, head.version_ihl, path->mtu))
		return 0;
	hash = bpf_get_hash_recalc(skb);
	if (bpf_skb_adjust_room(skb, sizeof(w), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET |
				BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
				BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH))
		return 0;
	ecn = head.tos & ECN_MASK;
	w.ip.version = 4;
	w.ip.ihl = sizeof(w.ip) / 4;
	w.ip.tos = ecn == ECN_CE ? ECN_ECT0 : ecn;
	w.ip.tot_len = bpf_htons(inner + WRAPPED);
	w.ip.id = bpf_get_prandom_u32();
	w.ip.ttl = TUNNEL_TTL;
	w.ip.protocol = IPPROTO_UDP;
	w.ip.saddr = path->source;
	w.ip.daddr = remote;
	w.ip.check = header_sum(&w.ip);
	w.udp.source = bpf_htons(FIRST_PORT + ((__u64)hash * PORTS >> 32));
	w.udp.dest = path->port;
	w.udp.len = bpf_htons(inner + WRAPPED - sizeof(w.ip));
	w.flags = bpf_htonl(VXLAN_HAS_VNI);
	w.vni = bpf_htonl(vni << 8);
	w.eth = head.eth;
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &w, sizeof(w), 0))
		return drop(skb, vni, DROP_TUNNEL);
	hop.ipv4_nh = path->via;
	ifindex = path->ifindex;
	return bpf_redirect_neigh(ifindex, &hop, sizeof(hop), 0);
}

static __always_inline int confirmed(const struct epoch *e)
{
	return bpf_ktime_get_coarse_ns() < e->paths_until;
}

static __always_inline struct path *path_to(const struct addr *remote)
{
	struct epoch *e = now();

	return e && confirmed(e) ? bpf_map_lookup_elem(&paths, remote) : 0;
}

static __always_inline int into_tunnel(struct __sk_buff *skb, __u32 vni, const struct addr *remote)
{
	struct addr to = *remote;
	struct path *path = path_to(&to);
	int done = path ? by_path(skb, vni, to.w[3], path) : 0;

	return done ? done : by_device(skb, vni, &to);
}

#endif
