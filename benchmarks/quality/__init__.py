"""Does stage 2 win? Several domains, seeds and arms from one stage-1 checkpoint, judged on unseen photographs."""
