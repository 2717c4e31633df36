/* SPDX-License-Identifier: MIT */
/* The whole engine as one translation unit; each part compiles alone, too. */
#ifndef EDGERL_INTERNAL
#define EDGERL_INTERNAL static
#endif
#include "base.c"
#include "policy.c"
#include "random.c"
#include "kernels.c"
#include "layout.c"
#include "learner.c"
#include "acting.c"
#include "batch_norm.c"
#include "topology.c"
#include "update.c"
