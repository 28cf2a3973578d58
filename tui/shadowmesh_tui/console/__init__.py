"""The controller's side of the app, without a screen: what is known of a controller, and how it comes to be known.

contexts  which controllers there are to look at: the one on this host, those signed in to, that of the environment
state     what is known of one: networks, clients, who waits for approval; what events change of it. Pure
follower  keeps the state true: REST for what is there, events for what changes, again after a lost connection
rows      clients as lines of a table: columns, order, filter. Pure
relayrows relays as lines; what taking one away breaks. Pure
used      what was used, read and summed up, beside the plan
wholenetwork  a whole network on a terminal: what stands together, where, and how it is drawn. Pure
health    how a network is, in a word and a sentence. Pure
forms     fields that are checked as they are typed, and what saving them would change. Pure
kept      what is kept between two runs

Screens of a controller are modules of `screens.console`, each by itself: `screens.console.registry` names them.
"""
