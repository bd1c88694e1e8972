# The forwarder of ZeroMQ between two ports; the forwarding itself is done by libzmq.
import sys
import zmq

context = zmq.Context()
front, back = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
# No limit on what a slow subscriber has waiting, as for the other servers: at one it would miss
# messages, and so it does with XPUB_NODROP, in bursts.
back.setsockopt(zmq.SNDHWM, 0)
front.bind("tcp://127.0.0.1:" + sys.argv[1])
back.bind("tcp://127.0.0.1:" + sys.argv[2])
zmq.proxy(front, back)
