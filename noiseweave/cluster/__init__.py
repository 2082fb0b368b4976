"""Where and when work happens: Ray and storage, no algorithm."""
