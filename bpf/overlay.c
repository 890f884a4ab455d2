/* The node's tunnel device, on receive: what other nodes send.
 *
 * The outer source must be a node that is on that network. Nothing is forwarded a second time: the inner destination
 * is a container of this node, or the packet ends here.
 */
#include "arrival.h"
#include "icmp.h"

/* What another node sent on the ingress network. */
static __noinline int mesh_find(struct __sk_buff *skb, __u32 vni, struct onward *on)
{
	struct icmp_error err = {};
	struct endpoint *e;
	__u8 macs[12];
	__u32 v4;
	int reason = mesh_parse(skb, &on->packet), is_error = reason && icmp_parse(skb, &err);

	if (reason && !is_error)
		return drop(skb, vni, reason);
	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return drop(skb, vni, DROP_MALFORMED);
	if (macs[7] == MAC_REPLY)
		return is_error ? ERROR_TO_CLIENT : TO_CLIENT;
	if (macs[7] != MAC_FORWARD && macs[7] != MAC_LATE)
		return drop(skb, vni, DROP_INGRESS_ISOLATED);
	on->late = macs[7] == MAC_LATE;
	__builtin_memcpy(&v4, macs + 2, 4);
	__builtin_memcpy(&on->task_port, macs + 8, 2);
	on->task = addr4(v4);
	e = endpoint_of(vni, &on->task);
	if (!e || e->kind != KIND_LOCAL)
		return drop(skb, vni, DROP_NOT_LOCAL);
	if (is_error)
		return icmp_to_task(skb, &err, vni, e, &on->task, on->task_port);
	on->vni = vni;
	on->mac = mac_at(e->mac);
	on->ifindex = e->ifindex;
	return TO_TASK;
}

static __always_inline int mesh_from_tunnel(struct __sk_buff *skb, __u32 vni, const struct addr *vtep)
{
	struct onward on = { .remote = *vtep };
	int found = mesh_find(skb, vni, &on);

	if (found == TO_CLIENT)
		return mesh_reply_at_entry(skb, &on.packet, vni);
	if (found == ERROR_TO_CLIENT)
		return icmp_leave(skb, vni);
	return found == TO_TASK ? mesh_to_task(skb, &on) : found;
}

static __always_inline int deliver(struct __sk_buff *skb, __u32 vni, struct addr *dst)
{
	struct endpoint *e = endpoint_of(vni, dst);

	if (!e || e->kind != KIND_LOCAL)
		return drop(skb, vni, DROP_NOT_LOCAL);
	count(PATH_FROM_TUNNEL, skb->len);
	return into_container(skb, e);
}

static __always_inline int deliver4(struct __sk_buff *skb, __u32 vni, __u32 remote, __u32 daddr, __u64 generation)
{
	struct addr dst = addr4(daddr);
	struct endpoint *e = endpoint_of(vni, &dst);

	if (!e || e->kind != KIND_LOCAL)
		return drop(skb, vni, DROP_NOT_LOCAL);
	if (remote)
		remember_arrival(vni, remote, daddr, e, generation);
	count(PATH_FROM_TUNNEL, skb->len);
	return into_container(skb, e);
}

/* Zero where nothing is known about such packets. `remote` is zero where the tunnel's other end has no IPv4 address. */
static __always_inline int as_before(struct __sk_buff *skb, __u32 vni, __u32 remote)
{
	void *data = (void *)(long)skb->data;
	struct iphdr *ip = data + ETH_HLEN;
	struct epoch *e = now();
	struct verdict *v;

	if (!e || (void *)(ip + 1) > (void *)(long)skb->data_end || skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	v = arrival(vni, remote, ip->daddr);
	if (!v)
		return 0;
	out_of_stack(skb, v);
	if (!holds(v, e, vni, 0, remote, ip->daddr))
		return 0;
	admit(v);
	count(PATH_FROM_TUNNEL, skb->len);
	return into_link(skb, v->to, v->mac);
}

/* `v4` is the address once more where it is one of IPv4, else zero. */
static __always_inline int sender(struct __sk_buff *skb, struct peer_key *peer, __u32 *v4)
{
	struct bpf_tunnel_key key = {};

	if (bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, 0) == 0) {
		*v4 = bpf_htonl(key.remote_ipv4);
		peer->addr = addr4(*v4);
	} else if (bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, BPF_F_TUNINFO_IPV6) == 0) {
		__builtin_memcpy(peer->addr.w, key.remote_ipv6, sizeof(peer->addr.w));
	} else {
		return 0;
	}
	peer->vni = key.tunnel_id;
	return 1;
}

SEC("classifier")
int overlay(struct __sk_buff *skb)
{
	struct peer_key peer = {};
	struct ethhdr *eth;
	struct addr dst;
	__u32 *flags, v4 = 0;
	__u64 of;
	int done;

	if (!sender(skb, &peer, &v4))
		return drop(skb, 0, DROP_TUNNEL);
	done = v4 ? as_before(skb, peer.vni, v4) : 0;
	if (done)
		return done;
	of = generation();
	flags = bpf_map_lookup_elem(&peers, &peer);
	if (!flags) {
		if (bpf_map_lookup_elem(&networks, &peer.vni))
			return drop(skb, peer.vni, DROP_UNKNOWN_PEER);
		return drop(skb, 0, DROP_UNKNOWN_NETWORK);
	}
	if (!readable(skb, ETH_HLEN + sizeof(struct iphdr)))
		return drop(skb, peer.vni, DROP_MALFORMED);
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) + sizeof(struct iphdr) > (void *)(long)skb->data_end)
		return drop(skb, peer.vni, DROP_MALFORMED);
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if (*flags & NET_INGRESS)
			return mesh_from_tunnel(skb, peer.vni, &peer.addr);
		return deliver4(skb, peer.vni, v4, ip->daddr, of);
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6) && !(*flags & NET_INGRESS)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), &dst, sizeof(dst)))
			return drop(skb, peer.vni, DROP_MALFORMED);
		return deliver(skb, peer.vni, &dst);
	}
	return drop(skb, peer.vni, DROP_PROTOCOL);
}

char LICENSE[] SEC("license") = "Apache-2.0";
