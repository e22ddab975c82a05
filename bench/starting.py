#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What starting processes costs, against the standard library and against threads.

*Joined* is until join() returns, *gone* until the kernel has taken the process back;
in the standard library both are one. *Apart* starts wait until the fork server has
children ready, *in a row* starts do not. The second table is PEP 371's: so many workers
that do nothing are started, then joined. Times are in microseconds; the ratios travel
better than they do.
"""

from __future__ import annotations

import sys

# The standard library's children run this file again: all else is in starting_rows.py.
if __name__ == "__main__":
    import starting_rows

    sys.exit(starting_rows.main(__doc__))
