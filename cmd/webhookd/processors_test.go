package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneProcessorServesOneDeliveryAtATimeAndAllServeSeveral(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var limits []int
		hold := make(chan struct{})
		p := newProcessors(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }), func(n int) {
			mu.Lock()
			defer mu.Unlock()
			limits = append(limits, n)
		})
		deliver := func() {
			go p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", http.NoBody))
			synctest.Wait()
		}
		expect := func(when string, want ...int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(limits, want) {
				t.Errorf("%s: the limits were %v, want %v (0: all)", when, limits, want)
			}
		}
		expect("at first", 1)
		deliver()
		expect("with one", 1)
		deliver()
		expect("with one more", 1, 0)
		time.Sleep(calm * 7 / 2)
		expect("while they are there", 1, 0)
		close(hold)
		time.Sleep(calm)
		expect("some time after they have gone", 1, 0, 1)
		one := func() {
			p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", http.NoBody))
		}
		for range 2 * lap {
			one()
			time.Sleep(lapTime / lap * 2)
		}
		expect("one after the other", 1, 0, 1)
		for range 2 * lap {
			one()
			time.Sleep(lapTime / lap / 2)
		}
		expect("one after the other, as fast as refusals are", 1, 0, 1, 0)
		time.Sleep(2 * calm)
		expect("some time after that", 1, 0, 1, 0, 1)
	})
}

func TestTheOperatorsProcessorsCount(t *testing.T) {
	t.Setenv("GOMAXPROCS", "2")
	h := http.NotFoundHandler()
	if _, limited := useFewProcessors(h).(*processors); limited {
		t.Error("GOMAXPROCS is set, and overruled")
	}
}
