package webhook

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http/httptrace"
	"net/netip"
	"syscall"
	"time"
)

// guard dials only the addresses that its policy allows. A name is resolved once for each
// dial, and the judged address itself is dialled, so that a changed DNS answer can't slip
// through.
type guard struct {
	policy Policy
	own    *interfaces
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	dial   func(ctx context.Context, network, address string) (net.Conn, error)

	resolveLimit, dialLimit time.Duration
}

const (
	resolveLimit = 2 * time.Second
	dialLimit    = 3 * time.Second // for all addresses of a name
	maxAddresses = 4               // of a name that are tried
)

func newGuard(policy Policy) *guard {
	g := &guard{
		policy: policy, own: newInterfaces(), lookup: newResolvers(policy.Resolvers).lookup,
		resolveLimit: resolveLimit, dialLimit: dialLimit,
	}
	// Control sees the address of the socket before it connects. A ControlContext would
	// override it.
	g.dial = (&net.Dialer{Control: g.control}).DialContext
	return g
}

// blockedError is how a dial ends that the guard refuses.
type blockedError struct {
	address string // that was refused, for operators, with its port; empty where no address was known
}

// Error doesn't tell the address, which the attempt records on its own.
func (*blockedError) Error() string { return "address not allowed" }

// Admission is what the guard asks before it looks a name up, and before a dial. Its functions
// may run on any goroutine, also when their message no longer needs the dial. The policy alone
// decides where a function is nil.
type Admission struct {
	// Lookup tells whether a name may be looked up now. If so, done must follow, which takes
	// whether a name server answered.
	Lookup func(ctx context.Context) (done func(answered bool), ok bool)
	// Dial tells whether an address may be dialled. It is called just before the dial. keeps
	// tells that the connection may be kept: later messages on that connection ask nothing.
	Dial func(address netip.Addr, keeps bool) bool
}

// ErrTurnedAway is how a dial ends where the admission let no name be looked up, or no address
// be dialled.
var ErrTurnedAway = errors.New("no address may be dialled now")

// admission travels in the context, since the transport hands nothing else on to the dial.
type admission struct {
	Admission
	keeps bool
}

type admissionKey struct{}

func withAdmission(ctx context.Context, asked Admission, keeps bool) context.Context {
	return context.WithValue(ctx, admissionKey{}, admission{asked, keeps})
}

func isAdmitted(ctx context.Context, address netip.Addr) bool {
	asked, _ := ctx.Value(admissionKey{}).(admission)
	return asked.Dial == nil || asked.Dial(address, asked.keeps)
}

func mayLookUp(ctx context.Context) (done func(answered bool), ok bool) {
	asked, _ := ctx.Value(admissionKey{}).(admission)
	if asked.Lookup == nil {
		return func(bool) {}, true
	}
	return asked.Lookup(ctx)
}

// dialContext is the transport's DialContext.
func (g *guard) dialContext(ctx context.Context, _, hostPort string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, &blockedError{}
	}
	addresses, err := g.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, address := range addresses { // a forbidden address beside allowed addresses is an attempt to slip through
		if !g.mayDial(address) {
			return nil, &blockedError{net.JoinHostPort(address.String(), port)}
		}
	}
	return g.dialFirst(ctx, toTry(addresses), port)
}

// toTry chooses the addresses that are tried, maxAddresses at most. IPv6 and IPv4 take turns,
// as RFC 8305, section 4, has it: one of them may have no way out. Where there are more
// addresses, half of the tries go to any of the rest, so that retries find a host whose first
// addresses are dead.
func toTry(addresses []netip.Addr) []netip.Addr {
	var turns [2][]netip.Addr // the family of the first address, and the other
	for _, address := range addresses {
		family := 0
		if address.Is4() != addresses[0].Is4() {
			family = 1
		}
		turns[family] = append(turns[family], address)
	}
	var chosen []netip.Addr
	for i := range addresses {
		for _, family := range turns {
			if i < len(family) {
				chosen = append(chosen, family[i])
			}
		}
	}
	if len(chosen) <= maxAddresses {
		return chosen
	}
	rest := chosen[maxAddresses/2:]
	rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	return chosen[:maxAddresses]
}

// resolve returns the addresses of a host as the transport names it: at least one, or an
// error.
func (g *guard) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if literal, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{literal}, nil
	}
	if isLocalhost(host) { // no resolver is asked
		if addresses := g.policy.loopback(); len(addresses) > 0 {
			return addresses, nil
		}
		return nil, &blockedError{}
	}
	addresses, err := g.ask(ctx, host+".") // absolute: no search domain applies
	if err == nil && len(addresses) == 0 {
		err = &net.DNSError{Err: "no addresses", IsNotFound: true}
	}
	return addresses, err
}

// ask looks a name up without the request's trace, which would take the connection to the
// resolver for the receiver's.
func (g *guard) ask(ctx context.Context, name string) (addresses []netip.Addr, err error) {
	done, ok := mayLookUp(ctx)
	if !ok {
		return nil, ErrTurnedAway
	}
	defer func() { done(!isUnanswered(err)) }()
	if trace := httptrace.ContextClientTrace(ctx); trace != nil {
		trace.DNSStart(httptrace.DNSStartInfo{Host: name})
		defer trace.DNSDone(httptrace.DNSDoneInfo{})
	}
	bare, cancel := context.WithTimeout(context.Background(), g.resolveLimit)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	return g.lookup(bare, name)
}

// isUnanswered tells whether a lookup ended without an answer of a name server.
func isUnanswered(err error) bool {
	lookup, ok := errors.AsType[*net.DNSError](err)
	return ok && lookup.IsTimeout || errors.Is(err, context.Canceled)
}

// dialFirst returns a connection to the first admitted address that accepts it. Each address
// has its share of the remaining time. The error wraps ErrTurnedAway where some address was
// not admitted.
func (g *guard) dialFirst(ctx context.Context, addresses []netip.Addr, port string) (conn net.Conn, err error) {
	deadline := time.Now().Add(g.dialLimit)
	var turnedAway error
	for i, address := range addresses {
		if !isAdmitted(ctx, address) {
			turnedAway = ErrTurnedAway
			continue
		}
		share := time.Until(deadline) / time.Duration(len(addresses)-i)
		if conn, err = g.dialOne(ctx, share, net.JoinHostPort(address.String(), port)); err == nil || ctx.Err() != nil {
			return conn, err
		}
	}
	return nil, errors.Join(err, turnedAway)
}

func (g *guard) dialOne(ctx context.Context, limit time.Duration, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return g.dial(ctx, "tcp", address)
}

// control is a net.Dialer's Control.
func (g *guard) control(network, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" || !g.mayDial(target.Addr()) {
		return &blockedError{address}
	}
	return nil
}

// mayDial also refuses the addresses of this machine, unless the policy exempts them.
func (g *guard) mayDial(address netip.Addr) bool {
	return g.policy.mayDial(address) && (g.policy.isExempted(address) || !g.own.has(address))
}
