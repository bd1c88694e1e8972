# The forwarder of ZeroMQ between two ports; the forwarding itself is done by libzmq.
import sys
import zmq

context = zmq.Context()
front, back = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
# A subscriber that is full makes publishers wait, instead of missing messages.
back.setsockopt(zmq.XPUB_NODROP, 1)
front.bind("tcp://127.0.0.1:" + sys.argv[1])
back.bind("tcp://127.0.0.1:" + sys.argv[2])
zmq.proxy(front, back)
