/* Sockets of this node's containers: a virtual IP is exchanged for a task's address once, when the socket connects.
 *
 * The networks that a socket may mean are those of its network namespace. Connected sockets are remembered until they
 * are released, so that getpeername shows the VIP and the daemon can end connections to tasks that are gone.
 * Unconnected datagram sockets keep the task they got while it lives.
 *
 * The resolver's address is one of loopback, and its port belongs to the container: a name server of the container's own
 * may listen there on all addresses. So ours listens on another, and sockets are led there in the same way.
 */
#include "backends.h"
#include "packet.h"

/* Only the part of errno.h that is needed: programs are compiled without a C library's view of the target. */
#define ECONNREFUSED 111

#define ALLOW 1
#define REFUSE 0

#define RESOLVER bpf_htonl(0x7f00000b) /* 127.0.0.11 */
#define DOMAIN bpf_htons(53)
#define PING_PROBE bpf_htons(1025)

static __always_inline int is_resolver(const struct addr *a)
{
	return a->w[3] == RESOLVER && addr_is4(a);
}

static __always_inline __u16 resolver_port(const struct bpf_sock_addr *ctx, const struct scope *scope)
{
	return ctx->protocol == IPPROTO_UDP ? scope->resolver_udp : scope->resolver_tcp;
}

/* True where that is whom the socket means. */
static __always_inline int to_resolver(struct bpf_sock_addr *ctx, const struct scope *scope, const struct addr *dst)
{
	__u16 port;

	if (!is_resolver(dst) || ctx->user_port != DOMAIN)
		return 0;
	port = resolver_port(ctx, scope);
	if (port)
		ctx->user_port = port;
	return 1;
}

static __always_inline void from_resolver(struct bpf_sock_addr *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct scope *scope = bpf_map_lookup_elem(&scopes, &netns);

	if (scope && ctx->user_port == resolver_port(ctx, scope))
		ctx->user_port = DOMAIN;
}

static __always_inline struct service *find(const struct scope *scope, struct front *front)
{
	struct service *s;
	__u32 i;

	for (i = 0; i < SCOPE_VNIS; i++) {
		if (i >= scope->count)
			break;
		front->vni = scope->vnis[i];
		s = bpf_map_lookup_elem(&services, front);
		if (s)
			return s;
	}
	return 0;
}

static __always_inline int refuse(void)
{
	count(PATH_REFUSED, 0);
	bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

/* A backend whose owner is there. The end of one may be known before the list is: the next one is asked then. */
static __always_inline int living_backend(struct front *front, __u32 many, struct backend *b)
{
	__u32 turn = next_turn(front, many);

	if (!backend_at(front, turn, b))
		return 0;
	if (endpoint_of(front->vni, &b->addr))
		return 1;
	turn = turn + 1 < many ? turn + 1 : 0;
	return backend_at(front, turn, b) && endpoint_of(front->vni, &b->addr);
}

/* iputils' ping asks the routes for its source: it connects a datagram socket to this port, and sends nothing there. */
static __always_inline int is_probe(const struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_UDP && ctx->user_port == PING_PROBE;
}

/* The daemon takes an endpoint away first and looks for its sockets then. Here it is the other way round, so that one of
 * the two sees the other. */
static __always_inline int lead(struct front *front, __u32 turn, __u64 cookie, struct connected *c)
{
	struct backend b;

	if (!backend_at(front, turn, &b))
		return 0;
	c->backend = b.addr;
	bpf_map_update_elem(&connected, &cookie, c, BPF_ANY);
	return endpoint_of(c->vni, &b.addr) != 0;
}

static __always_inline int do_connect(struct bpf_sock_addr *ctx, struct addr *dst)
{
	struct front front = { .addr = *dst };
	struct connected *known = 0, before, c = {};
	struct service *service;
	struct scope *scope;
	__u64 cookie;
	__u32 turn;

	c.netns = bpf_get_netns_cookie(ctx);
	scope = bpf_map_lookup_elem(&scopes, &c.netns);
	if (!scope)
		return ALLOW;
	service = to_resolver(ctx, scope, dst) ? 0 : find(scope, &front);
	if (!service) {
		/* A datagram socket may connect again, to something else. */
		if (ctx->protocol == IPPROTO_UDP) {
			cookie = bpf_get_socket_cookie(ctx);
			bpf_map_delete_elem(&connected, &cookie);
		}
		return ALLOW;
	}
	if (!service->count)
		return is_probe(ctx) ? ALLOW : refuse();
	cookie = bpf_get_socket_cookie(ctx);
	c.vip = *dst;
	c.vni = front.vni;
	c.port = ctx->user_port;
	c.proto = ctx->protocol;
	if (c.proto == IPPROTO_UDP) {
		known = bpf_map_lookup_elem(&connected, &cookie);
		if (known)
			before = *known;
	}
	turn = next_turn(&front, service->count);
	if (!lead(&front, turn, cookie, &c) &&
	    !lead(&front, turn + 1 < service->count ? turn + 1 : 0, cookie, &c)) {
		/* a datagram socket keeps the peer that it had */
		if (known)
			bpf_map_update_elem(&connected, &cookie, &before, BPF_ANY);
		else
			bpf_map_delete_elem(&connected, &cookie);
		return refuse();
	}
	count(PATH_CONNECT, 0);
	*dst = c.backend;
	return ALLOW;
}

/* A datagram that answers a published flow must leave from the address that it came to. A server on a wildcard address
 * leaves that choice to the routes, and those lead to the other end of the world: the default one is another link's.
 */
static __always_inline void answer_from_ingress(struct bpf_sock_addr *ctx, const struct scope *scope,
						const struct addr *dst)
{
	struct reply_key key = {};
	struct bpf_sock *sk = ctx->sk;

	if (addr_is_zero(&scope->ingress) || !sk || ctx->msg_src_ip4)
		return;
	key.task = scope->ingress;
	key.client = *dst;
	key.task_port = bpf_htons(sk->src_port);
	key.client_port = ctx->user_port;
	key.proto = IPPROTO_UDP;
	if (bpf_map_lookup_elem(&udp_replies, &key))
		ctx->msg_src_ip4 = scope->ingress.w[3];
}

static __always_inline int do_send(struct bpf_sock_addr *ctx, struct addr *dst, int v4)
{
	struct front front = { .addr = *dst };
	struct datagram_key key = { .addr = *dst, .port = ctx->user_port, .direction = DIR_FORWARD };
	struct datagram *known, d = {};
	struct service *service;
	struct endpoint *e;
	struct scope *scope;
	struct backend b;
	__u64 netns = bpf_get_netns_cookie(ctx);

	scope = bpf_map_lookup_elem(&scopes, &netns);
	if (!scope || to_resolver(ctx, scope, dst))
		return ALLOW;
	key.cookie = bpf_get_socket_cookie(ctx);
	known = bpf_map_lookup_elem(&datagrams, &key);
	if (known) {
		d = *known; /* once, as a backend */
		e = endpoint_of(d.vni, &d.other);
		if (e && e->serial == d.serial) {
			*dst = d.other;
			count(PATH_DATAGRAM, 0);
			return ALLOW;
		}
	}
	service = find(scope, &front);
	if (!service) {
		if (v4)
			answer_from_ingress(ctx, scope, dst);
		return ALLOW;
	}
	if (!service->count)
		return refuse();
	if (!living_backend(&front, service->count, &b))
		return refuse();
	e = endpoint_of(front.vni, &b.addr);
	d.other = b.addr;
	d.serial = e ? e->serial : 0;
	d.vni = front.vni;
	bpf_map_update_elem(&datagrams, &key, &d, BPF_ANY);
	d.other = *dst;
	*dst = b.addr;
	key.addr = b.addr;
	key.direction = DIR_REVERSE;
	bpf_map_update_elem(&datagrams, &key, &d, BPF_ANY);
	count(PATH_DATAGRAM, 0);
	return ALLOW;
}

/* The address that the program in the container used for `a`. True when it differs. */
static __always_inline int as_called(struct bpf_sock_addr *ctx, struct addr *a, int datagram_socket)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct connected *c = bpf_map_lookup_elem(&connected, &cookie);
	struct datagram_key key = { .cookie = cookie, .addr = *a, .port = ctx->user_port, .direction = DIR_REVERSE };
	struct datagram *d;

	if (is_resolver(a)) {
		from_resolver(ctx);
		return 0;
	}
	if (c && c->port == ctx->user_port && addr_eq(&c->backend, a)) {
		*a = c->vip;
		return 1;
	}
	if (!datagram_socket)
		return 0;
	d = bpf_map_lookup_elem(&datagrams, &key);
	if (!d)
		return 0;
	*a = d->other;
	return 1;
}

/* Contexts are read and written word by word: the kernel allows nothing else. */
#define LOAD6(ctx) { { (ctx)->user_ip6[0], (ctx)->user_ip6[1], (ctx)->user_ip6[2], (ctx)->user_ip6[3] } }
#define STORE6(ctx, a)                      \
	do {                                \
		(ctx)->user_ip6[0] = (a).w[0]; \
		(ctx)->user_ip6[1] = (a).w[1]; \
		(ctx)->user_ip6[2] = (a).w[2]; \
		(ctx)->user_ip6[3] = (a).w[3]; \
	} while (0)

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct addr dst = addr4(ctx->user_ip4);
	int verdict = do_connect(ctx, &dst);

	ctx->user_ip4 = dst.w[3];
	return verdict;
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct addr dst = LOAD6(ctx);
	int verdict = do_connect(ctx, &dst);

	STORE6(ctx, dst);
	return verdict;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	struct addr dst = addr4(ctx->user_ip4);
	int verdict = do_send(ctx, &dst, 1);

	ctx->user_ip4 = dst.w[3];
	return verdict;
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	struct addr dst = LOAD6(ctx);
	int verdict = do_send(ctx, &dst, 0);

	STORE6(ctx, dst);
	return verdict;
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	struct addr from = addr4(ctx->user_ip4);

	if (as_called(ctx, &from, 1))
		ctx->user_ip4 = from.w[3];
	return ALLOW;
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	struct addr from = LOAD6(ctx);

	if (as_called(ctx, &from, 1))
		STORE6(ctx, from);
	return ALLOW;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	struct addr peer = addr4(ctx->user_ip4);

	if (as_called(ctx, &peer, 0))
		ctx->user_ip4 = peer.w[3];
	return ALLOW;
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	struct addr peer = LOAD6(ctx);

	if (as_called(ctx, &peer, 0))
		STORE6(ctx, peer);
	return ALLOW;
}

SEC("cgroup/sock_release")
int released(struct bpf_sock *sk)
{
	__u64 cookie = bpf_get_socket_cookie(sk);

	bpf_map_delete_elem(&connected, &cookie);
	return ALLOW;
}

char LICENSE[] SEC("license") = "Apache-2.0";
