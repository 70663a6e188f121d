package pgdev

// FindIn is Find with another PATH and other usual places.
func FindIn(path, places string) (string, error) {
	acct, err := serverAccount()
	if err != nil {
		return "", err
	}
	found, err := find(acct, path, places)
	if err != nil {
		return "", err
	}
	return found[0].dir, nil
}

// SupervisorPID is the process that stands between this one and PostgreSQL.
func (s *Server) SupervisorPID() int { return s.proc.cmd.Process.Pid }
