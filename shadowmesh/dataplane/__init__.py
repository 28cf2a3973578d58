"""Moving packets: the pump interface, the python pump in its child process, SimPump, TUN, sockets, offloads."""
