/* The backend of a new flow: those of a front take turns, and the list may change while it is read. */
#ifndef MALHA_BACKENDS_H
#define MALHA_BACKENDS_H

#include "maps.h"

static __always_inline __u32 next_turn(struct front *front, __u32 count)
{
	__u64 *turn = bpf_map_lookup_elem(&cursors, front);

	if (!turn) {
		__u64 first = bpf_get_prandom_u32(); /* else every node would begin with the same backend */

		bpf_map_update_elem(&cursors, front, &first, BPF_NOEXIST);
		turn = bpf_map_lookup_elem(&cursors, front);
	}
	return turn ? __sync_fetch_and_add(turn, 1) % count : 0;
}

/* True where there is one. It is read once, as the row may be another backend's a moment later. */
static __always_inline int backend_at(struct front *front, __u32 index, struct backend *b)
{
	struct slot slot = { *front, index };
	struct backend *row = bpf_map_lookup_elem(&backends, &slot);

	if (!row) {
		slot.index = 0; /* the list just got shorter */
		row = bpf_map_lookup_elem(&backends, &slot);
	}
	if (!row)
		return 0;
	*b = *row;
	return 1;
}

#endif
