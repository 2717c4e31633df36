/* SPDX-License-Identifier: MIT */
/* The whole engine as one translation unit: each part is included once, in the order of its needs. */
#include "base.h"
#include "numeric.h"
#include "policy.c"
#include "random.h"
#include "learner.h"
#include "kernels.c"
#include "learner.c"
#include "topology.c"
#include "update.c"
