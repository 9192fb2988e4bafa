// Package tap writes the Test Anything Protocol, version 13: the few calls that the OCI runtime-tools use of the
// package of that import path, which Debian does not have.
package tap

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing/quick"
	"encoding/json"
)

// T holds the state of one test run.
type T struct {
	nextTestNumber int
	TODO           string
	Writer         io.Writer
}

// New returns a T that writes to standard output.
func New() *T { return &T{nextTestNumber: 1} }

func (t *T) w() io.Writer {
	if t.Writer == nil {
		return os.Stdout
	}
	return t.Writer
}

func (t *T) printf(format string, args ...interface{}) { fmt.Fprintf(t.w(), format, args...) }

// Header prints the version line and, for a positive count, the plan.
func (t *T) Header(testCount int) {
	t.printf("TAP version 13\n")
	if testCount > 0 {
		t.printf("1..%d\n", testCount)
	}
}

// Ok prints one result.
func (t *T) Ok(test bool, description string) {
	ok := "ok"
	if !test {
		ok = "not ok"
	}
	t.printf("%s %d - %s%s\n", ok, t.nextTestNumber, description, t.directive())
	t.nextTestNumber++
}

func (t *T) directive() string {
	if t.TODO == "" {
		return ""
	}
	return " # TODO " + t.TODO
}

// Fail and Pass are Ok with a fixed verdict.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Pass prints a passed test.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Check runs testing/quick.
func (t *T) Check(function interface{}, description string) {
	err := quick.Check(function, nil)
	if err != nil {
		t.Diagnostic(err.Error())
	}
	t.Ok(err == nil, description)
}

// Count is the number of results so far.
func (t *T) Count() int { return t.nextTestNumber - 1 }

// AutoPlan prints the plan after the fact.
func (t *T) AutoPlan() { t.printf("1..%d\n", t.Count()) }

// Skip prints count skipped tests.
func (t *T) Skip(count int, description string) {
	for i := 0; i < count; i++ {
		t.printf("ok %d # SKIP %s\n", t.nextTestNumber, description)
		t.nextTestNumber++
	}
}

// Todo returns a T whose failures are expected.
func (t *T) Todo() *T {
	n := *t
	n.TODO = "TODO"
	return &n
}

func escape(message string, prefix string) string {
	return prefix + strings.ReplaceAll(strings.TrimRight(message, "\n"), "\n", "\n"+prefix) + "\n"
}

// Diagnostic prints a comment.
func (t *T) Diagnostic(message string) { t.printf("%s", escape(message, "# ")) }

// Diagnosticf is Diagnostic with a format.
func (t *T) Diagnosticf(format string, a ...interface{}) { t.Diagnostic(fmt.Sprintf(format, a...)) }

// YAML prints a block of data about the last result; JSON is YAML.
func (t *T) YAML(message interface{}) error {
	bytes, err := json.MarshalIndent(message, "", "  ")
	if err != nil {
		return err
	}
	t.printf("  ---\n%s  ...\n", escape(string(bytes), "  "))
	return nil
}
